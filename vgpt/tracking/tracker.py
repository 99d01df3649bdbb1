"""What a trainer tells of its run: one facade over the local journal and the mirror to MLflow.

Once started it never raises and never waits: the journal takes a line, a process of its own brings it to MLflow.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from vgpt.errors import TrackingError
from vgpt.files.digests import digest_if_there
from vgpt.tracking.integrity import seal_of
from vgpt.tracking.journal import METRICS_FILE, Journal, Point, now_ms
from vgpt.tracking.mlflow_store.mirror import DEADLINE, Mirror
from vgpt.tracking.mlflow_store.target import Target, resolve_target
from vgpt.tracking.record import SETTINGS_FILE, WINDOWS_FILE, RunRecord, RunStart, new_id, read_record, save_summary
from vgpt.tracking.schema import END_STATUSES, SCHEMA_VERSION, Tag

_LISTEN_SECONDS = 1.0


def open_tracker(
    start: RunStart,
    *,
    kind: Literal["mlflow", "journal"],
    resume_step: int | None,
    tracking_uri: str | None = None,
    notify: Callable[[str], None],
    deadline: float = DEADLINE,
) -> "Tracker":
    """Start, or continue, the record of a run.

    Args:
        start: what is known of the run.
        kind: "mlflow" mirrors the journal; "journal" writes it alone.
        resume_step: step of the checkpoint that the run continues from: its later points are dropped from the journal,
            and the same MLflow run goes on. None begins a new run.
        tracking_uri: the store; None for the environment's, `.env`'s or `mlflow.db` in the working directory.
        notify: hears, now and then and on the caller's thread, what the user should know.
        deadline: seconds that `finish` may wait for the mirror.

    Raises:
        TrackingError: the run directory cannot be written, or the tracking URI is of no known kind.
    """
    target = resolve_target(tracking_uri, must_serve=kind == "mlflow")
    for note in target.notes:
        notify(note)
    run_dir = start.run_dir
    record = _record(start, target if kind == "mlflow" else None, target, resume=resume_step is not None)
    try:
        journal = Journal(run_dir, resume_step=resume_step)
        record.save(run_dir)
    except OSError as error:
        raise TrackingError(
            f"the run directory {run_dir} cannot be written: {error.strerror or error}",
            "Choose another --run-name or --runs-dir, or mend its permissions.",
        ) from None
    mirror = Mirror(run_dir, target, deadline=deadline) if kind == "mlflow" else None
    tracker = Tracker(run_dir, record, journal, mirror, target, notify, first_step=resume_step or 0)
    tracker.event("started" if resume_step is None else "resumed", step=resume_step or 0)
    return tracker


class Tracker:
    """Records a run; made by `open_tracker`. Every method is quick and none raises; after `finish` they do nothing."""

    def __init__(
        self,
        run_dir: Path,
        record: RunRecord,
        journal: Journal,
        mirror: Mirror | None,
        target: Target,
        notify: Callable[[str], None],
        *,
        first_step: int,
    ) -> None:
        self._run_dir = run_dir
        self._record = record
        self._journal = journal
        self._mirror = mirror
        self._target = target
        self._notify = notify
        self._said: set[str] = set()
        self._last_step = first_step
        self._listened = time.monotonic()
        self._finished = False

    @property
    def id(self) -> str:
        """The run's identity, the same in the journal and in every store."""
        return self._record.id

    def log(
        self, metrics: Mapping[str, float], *, step: int, tokens: int | None = None, seconds: float | None = None
    ) -> None:
        """Record metrics of a step; `tokens` and `seconds` are the run's totals so far."""
        if not self._finished:
            self._log(metrics, step=step, tokens=tokens, seconds=seconds)

    def _log(
        self,
        metrics: Mapping[str, float],
        *,
        step: int,
        tokens: int | None = None,
        seconds: float | None = None,
        summary: bool = False,
    ) -> None:
        self._last_step = max(self._last_step, step)
        numbers: dict[str, float] = {}
        for key, value in metrics.items():
            try:
                numbers[key] = float(value)
            except (TypeError, ValueError):
                self._say_once(f"metric {key!r} is no number ({type(value).__name__}) and is not recorded")
        self._note_disk(self._journal.log(Point(step, now_ms(), numbers, tokens, seconds, summary)))
        self._start_mirror()
        self._listen()

    def event(self, kind: str, **fields: Any) -> None:
        """Record an event, such as a checkpoint or an early stop, with fields of one's own."""
        if not self._finished:
            safe = {
                key: self._target.redact(value) if isinstance(value, str) else value for key, value in fields.items()
            }
            self._note_disk(self._journal.event(kind, safe))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; the last value of a tag counts."""
        if not self._finished:
            self._record.tags |= _redacted(tags, self._target)
            self._save()

    def artifact(self, path: Path, folder: str = "") -> None:
        """Have a file copied to the run's artifacts in MLflow; a later change of the file is copied again."""
        if not self._finished:
            self._record.add_artifact(path, folder)
            self._save()

    def finish(self, status: str, summary: Mapping[str, float] | None = None) -> list[str]:
        """End the record and wait, at most until the deadline, for the mirror.

        Args:
            status: "finished", "failed", "killed" or "diverged".
            summary: metrics of the whole run, recorded at its last step.

        Returns:
            What the user should know, such as a number of points that MLflow does not have yet.
        """
        if self._finished:
            return []
        if summary:
            self._log(summary, step=self._last_step, summary=True)
        self.event(status, step=self._last_step)
        self._finished = True
        self._record.status = status if status in END_STATUSES else "failed"
        self._record.ended = now_ms()
        self._note_disk(self._journal.close())
        if self._record.status == "finished" and summary:
            self._seal(dict(summary))
        with contextlib.suppress(OSError):
            self._record.add_artifact(save_summary(self._run_dir, self._record, dict(summary or {})), "")
        self._save()
        self._start_mirror()
        return self._mirror.finish() if self._mirror is not None else []

    def _seal(self, summary: Mapping[str, float]) -> None:
        """Add digests of the run's files, and the seal over everything that it says of itself, to its tags."""
        record = self._record
        record.tags |= {
            Tag.JOURNAL: digest_if_there(self._run_dir / METRICS_FILE),
            Tag.WINDOWS: digest_if_there(self._run_dir / WINDOWS_FILE),
            Tag.SETTINGS: digest_if_there(self._run_dir / SETTINGS_FILE),
            Tag.SEALED_METRICS: ",".join(sorted(summary)),
        }
        record.tags[Tag.SEAL] = seal_of(record.id, record.params, record.tags, summary)

    def _save(self) -> None:
        try:
            self._record.save(self._run_dir)
        except OSError as error:
            self._note_disk(error)

    def _note_disk(self, error: OSError | None) -> None:
        if error is not None:
            self._say_once(
                f"the journal cannot be written ({error.strerror}); its lines are kept in memory until it can"
            )

    def _start_mirror(self) -> None:
        """Have the mirror run, from the first points on."""
        if self._mirror is None:
            return
        try:
            self._mirror.start()
        except OSError as error:
            self._mirror = None
            self._say_once(
                f"the mirror to MLflow cannot be started ({error}); the journal in {self._run_dir} keeps everything"
            )

    def _listen(self) -> None:
        """Pass on what the mirror has said, at most once a second."""
        if self._mirror is not None and time.monotonic() - self._listened > _LISTEN_SECONDS:
            self._listened = time.monotonic()
            for message in self._mirror.messages():
                self._notify(message)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._notify(text)


class NoTracker(Tracker):
    """Records nothing: for the processes of a run that are not the main one."""

    def __init__(self) -> None:
        self._finished = True


def _record(start: RunStart, store: Target | None, target: Target, *, resume: bool) -> RunRecord:
    """Return the run's record: a resumed run keeps its identity, its params and the time of its start."""
    before = read_record(start.run_dir) if resume else None
    named = {Tag.SCHEMA: SCHEMA_VERSION, Tag.RUN_NAME: start.run_name, Tag.RUN_DIR: str(start.run_dir.resolve())}
    return RunRecord(
        id=before.id if before else new_id(),
        run_name=start.run_name,
        experiment=start.experiment,
        params=_redacted(start.params, target),
        tags=(before.tags if before else {}) | named | _redacted(start.tags, target),
        started=before.started if before else now_ms(),
        store=store.shown if store is not None else "",
        artifacts=before.artifacts if before else [],
    )


def _redacted(texts: Mapping[str, str], target: Target) -> dict[str, str]:
    return {key: target.redact(str(value)) for key, value in texts.items()}
