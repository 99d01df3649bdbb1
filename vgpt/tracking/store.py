"""Reading runs back: from MLflow, or from the journals of the run directories where MLflow is not used or not there."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vgpt.tracking.integrity import disagreements
from vgpt.tracking.journal import latest_metrics, read_metrics
from vgpt.tracking.lines import read_json
from vgpt.tracking.lock import lock_owner
from vgpt.tracking.mlflow_store.delivery import SYNC_FILE
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore, StoredRun, open_for_reading, unreadable
from vgpt.tracking.mlflow_store.reasons import StoreError
from vgpt.tracking.mlflow_store.target import Target, resolve_target
from vgpt.tracking.record import RECORD_FILE, read_record
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag
from vgpt.tracking.suites.evaluated import evaluated_metrics

READ_TIMEOUT = 30.0
_STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}

Result = TypeVar("Result")


def read_runs(
    *,
    experiment: str = "vgpt",
    tracking_uri: str | None = None,
    where: Mapping[str, str] | None = None,
    timeout: float = READ_TIMEOUT,
) -> list[RunInfo]:
    """Return the runs of an experiment in MLflow that carry all tags of `where`, newest first.

    An experiment, or a local SQLite store, that does not exist holds no runs. Comparisons that were logged are none,
    nor are the parents of studies.

    Raises:
        TrackingError: the store cannot be read, or not within `timeout` seconds.
    """
    target = resolve_target(tracking_uri)
    if target.database is not None and not target.database.exists():
        return []

    def read() -> list[RunInfo]:
        store = open_for_reading(target)
        experiment_id = store.experiment_id(experiment, create=False)
        if experiment_id is None:
            return []
        found = store.runs(experiment_id, where or {})
        return [_run_info(run, experiment) for run in found if Tag.KIND not in run.tags]

    return within(timeout, read, target)


class StoreReader:
    """What single runs have in MLflow; the store is opened once, at the first question.

    Args:
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that one answer may take.
    """

    def __init__(self, tracking_uri: str | None = None, timeout: float = READ_TIMEOUT) -> None:
        self._uri, self._timeout = tracking_uri, timeout
        self._store: MlflowStore | None = None

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of a run's metric, by step; an unknown run or metric has none.

        Raises:
            TrackingError: the store cannot be read, or not in time.
        """
        return self._ask(lambda store: store.history(run_id, key))

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return the content of a run's artifact; None where the run has none of that name.

        Raises:
            TrackingError: the store cannot be read, or not in time.
        """
        return self._ask(lambda store: store.download(run_id, name))

    def _ask(self, question: Callable[[MlflowStore], Result]) -> Result:
        target = resolve_target(self._uri)

        def answer() -> Result:
            self._store = self._store or open_for_reading(target)
            return question(self._store)

        return within(self._timeout, answer, target)


def read_local_runs(
    runs_dir: Path,
    *,
    experiment: str | None = None,
    where: Mapping[str, str] | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> list[RunInfo]:
    """Return the runs recorded in the directories below `runs_dir`, newest first, without MLflow.

    Args:
        runs_dir: holds one directory per run; other directories are passed over.
        experiment: only runs of this experiment; None for all.
        where: only runs that carry all these tags.
        notify: hears of runs that cannot be read, which are left out.
    """
    found: list[RunInfo] = []
    for path in sorted(runs_dir.glob("*/")):
        try:
            run = read_local_run(path)
            if run is None and (path / RECORD_FILE).exists():
                notify(f"{path} is left out: its {RECORD_FILE} cannot be read")
        except OSError as error:
            notify(f"{path} is left out: {error.strerror or error}")
            continue
        if run is not None:
            found.append(run)
    wanted = [
        run
        for run in found
        if experiment in (None, run.experiment) and all(run.tags.get(k) == v for k, v in (where or {}).items())
    ]
    return sorted(wanted, key=lambda run: run.start_time, reverse=True)


def read_local_run(run_dir: Path) -> RunInfo | None:
    """Return the run recorded in a directory, or None where there is none."""
    record = read_record(run_dir)
    if record is None:
        return None
    status = record.status
    if status == "running" and lock_owner(run_dir) is None:
        status = "killed"
    tags = {**record.tags, Tag.ID: record.id, Tag.STATUS: status}
    metrics = latest_metrics(read_metrics(run_dir)) | evaluated_metrics(run_dir, record)
    run_id = _local_run_id(run_dir, record.id)
    return RunInfo(
        run_id,
        record.run_name,
        record.experiment,
        status,
        record.started,
        record.params,
        metrics,
        tags,
        directory=run_dir,
    )


def directory_on_this_machine(run: RunInfo) -> Path | None:
    """Return the run's directory on this machine; a directory that was given to another run is not it."""
    if run.directory is not None:
        return run.directory
    tagged = Path(run.tags[Tag.RUN_DIR]) if Tag.RUN_DIR in run.tags else None
    record = read_record(tagged) if tagged is not None else None
    return tagged if record is not None and record.id == run.id else None


def local_history(run_dir: Path, key: str) -> list[tuple[int, float]]:
    """Return (step, value) of a metric from a run's journal, by step."""
    return [(point.step, point.metrics[key]) for point in read_metrics(run_dir) if key in point.metrics]


def merge_runs(local: Iterable[RunInfo], stored: Iterable[RunInfo]) -> list[RunInfo]:
    """Return both lists as one, newest first; a run in both is taken from its journal, which is never behind.

    Where its two copies disagree, the run says so.
    """
    by_journal = {run.id: run for run in local}
    others: list[RunInfo] = []
    for run in stored:
        copy = by_journal.get(run.id) if run.id else None
        if copy is None:
            others.append(run)
        elif found := disagreements(copy, run):
            by_journal[run.id] = replace(copy, conflicts=(*copy.conflicts, *found))
    return sorted([*by_journal.values(), *others], key=lambda run: run.start_time, reverse=True)


def _run_info(run: StoredRun, experiment: str) -> RunInfo:
    status = _STATUS.get(run.status, "running")
    if status == "failed" and run.tags.get(Tag.STATUS) == "diverged":
        status = "diverged"
    if status == "running" and _is_dead(run):
        status = "killed"
    return RunInfo(run.run_id, run.run_name, experiment, status, run.start_time, run.params, run.metrics, run.tags)


def _is_dead(run: StoredRun) -> bool:
    """Tell whether a run that MLflow believes running was trained on this machine and is not any more."""
    directory = run.tags.get(Tag.RUN_DIR)
    record = read_record(Path(directory)) if directory else None
    if directory is None or record is None:
        return False
    superseded = record.id != run.tags.get(Tag.ID)
    return superseded or lock_owner(Path(directory)) is None


def _local_run_id(run_dir: Path, identity: str) -> str:
    """Return the id of the run in the store it was last brought to, as far as the run directory knows."""
    saved = read_json(run_dir / SYNC_FILE) or {}
    if saved.get("id") != identity:
        return ""
    ids = [marks.get("run_id", "") for marks in saved.get("stores", {}).values()]
    return ids[-1] if ids else ""


def within(timeout: float, read: Callable[[], Result], target: Target) -> Result:
    """Return what `read` returns, or give up on it: MLflow's own time limits count single packets, not requests.

    Raises:
        TrackingError: the store fails, or does not answer within `timeout` seconds.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(read())
        except Exception as error:  # noqa: BLE001 - carried to the calling thread and raised there
            errors.append(error)

    thread = threading.Thread(target=run, name="vgpt-mlflow-read", daemon=True)
    thread.start()
    thread.join(timeout)
    if results:
        return results[0]
    error = errors[0] if errors else unreadable(target, f"no answer within {timeout:g} s")
    if isinstance(error, StoreError):
        error = unreadable(target, str(error))
    raise error
