"""Bringing a run's journal to MLflow, each point once: what is sent, and what is remembered of it.

Memory is `mlflow_sync.json` in the run directory: per store the run's id there, and per metric the last step delivered.
A resumed run repeats the steps after its checkpoint; marks by step, not by place in the file, keep the repeated ones
out. A batch whose answer was lost is sent again unchanged, and MLflow stores identical points once.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from vgpt.files.text import table_of
from vgpt.files.writing import replace_json
from vgpt.tracking.journal import JournalReader, Point, now_ms, read_metrics
from vgpt.tracking.lines import read_json
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.reasons import StoreError
from vgpt.tracking.mlflow_store.target import Target
from vgpt.tracking.record import RunRecord, read_record
from vgpt.tracking.schema import Tag
from vgpt.tracking.suites.evaluated import EVALUATED

SYNC_FILE = "mlflow_sync.json"
_BATCH = 900
_SMALLEST_BATCH = 50
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "killed": "KILLED"}

Sample = tuple[str, float, int, int]
"""A metric's key, value, time in milliseconds and step."""


@dataclass
class Marks:
    """What one store has received of a run."""

    run_id: str = ""
    store: str = ""
    delivered: dict[str, int] = field(default_factory=dict[str, int])
    params: bool = False
    tags: dict[str, str] = field(default_factory=dict[str, str])
    artifacts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    status: str = ""
    refused: int = 0


def load_marks(run_dir: Path, record: RunRecord, target: Target) -> Marks:
    """Return what `target` has received of the recorded run; nothing where another run had this directory before."""
    saved = read_json(run_dir / SYNC_FILE) or {}
    if saved.get("id") != record.id:
        return Marks()
    try:
        return Marks(**saved["stores"][_store_key(target)])
    except (KeyError, TypeError):
        return Marks()


def undelivered(run_dir: Path, target: Target) -> int:
    """Return how many values of the journal have not reached the store, without asking the store."""
    record = read_record(run_dir)
    if record is None:
        return 0
    marks = load_marks(run_dir, record, target)
    return sum(
        1 for point in read_metrics(run_dir) for key in point.metrics if point.step > marks.delivered.get(key, -1)
    )


class Delivery:
    """Brings one run to one store; `step` does what there is to do and raises `StoreError` where the store fails.

    After a failure the next `step` goes on where this one stopped. Only one process may deliver a run at a time.

    Args:
        run_dir: the run's directory, with its tracking.json.
        target: the store.
        notify: hears of what MLflow refused for good.
    """

    def __init__(self, run_dir: Path, target: Target, notify: Callable[[str], None]) -> None:
        self._run_dir = run_dir
        self._target = target
        self._notify = notify
        self._store: MlflowStore | None = None
        self._reader = JournalReader(run_dir)
        self._waiting: list[Sample] = []
        self._queued: dict[str, int] = {}
        self._batch = _BATCH
        record = read_record(run_dir)
        if record is None:
            raise StoreError(f"{run_dir} holds no readable tracking.json")
        self._record = record
        self._marks = load_marks(run_dir, record, target)
        self._queued = dict(self._marks.delivered)

    @property
    def run_id(self) -> str:
        """The run's id in the store, empty before it is created there."""
        return self._marks.run_id

    def step(self, *, ended_as: str | None = None) -> int:
        """Deliver what is new and return the number of values sent.

        Args:
            ended_as: the end of a run that died without recording one; None while it may still go on.
        """
        record = read_record(self._run_dir) or self._record
        if record.id != self._record.id:
            return 0  # the directory was given to a new run, which has a mirror of its own
        self._record = record
        if self._store is None:
            store = MlflowStore(self._target, write=True)
            if self._marks.run_id and not store.check_run(self._marks.run_id):
                # The store was emptied or replaced since: all that is on record goes there anew.
                self._marks, self._queued = Marks(), {}
            self._store = store
        if not self._marks.run_id:
            self._find_or_create(self._store)
        status = ended_as if ended_as and record.status == "running" else record.status
        self._send_descriptions(self._store, status)
        sent = self._send_points(self._store)
        self._send_artifacts(self._store)
        sent += self._send_evaluations(self._store)
        self._send_status(self._store, status)
        return sent

    def _find_or_create(self, store: MlflowStore) -> None:
        """Adopt the run if a creation whose answer was lost has made it, else create it."""
        record = self._record
        experiment = store.experiment_id(record.experiment, create=True)
        assert experiment is not None
        known = next(store.runs(experiment, {Tag.ID: record.id}), None)
        if known is not None:
            self._marks.run_id = known.run_id
        else:
            tags = {**record.tags, Tag.ID: record.id, Tag.STATUS: "running"}
            self._marks.run_id = store.create_run(experiment, name=record.run_name, started=record.started, tags=tags)
            self._marks.tags = tags
        self._marks.status = "running"
        self._save()

    def _send_descriptions(self, store: MlflowStore, status: str) -> None:
        """Send params once (MLflow never changes one) and changed tags; a run that goes on is RUNNING again."""
        if status == "running" and self._marks.status != "running":
            store.set_status(self._marks.run_id, "RUNNING")
            self._marks.status = "running"
        wanted = {**self._record.tags, Tag.ID: self._record.id, Tag.STATUS: status}
        changed = {key: value for key, value in wanted.items() if self._marks.tags.get(key) != value}
        params = {} if self._marks.params else self._record.params
        if changed or params:
            self._send_or_refuse(lambda: store.send(self._marks.run_id, params=params, tags=changed), "params or tags")
            self._marks.params = True
            self._marks.tags |= changed
            self._save()

    def _send_points(self, store: MlflowStore) -> int:
        """Send new points in order, in batches that shrink while the store is slow."""
        for sample in _samples(self._reader.new()):
            if sample[3] > self._queued.get(sample[0], -1):
                self._queued[sample[0]] = sample[3]
                self._waiting.append(sample)
        sent = 0
        while self._waiting:
            batch = self._waiting[: self._batch]
            try:
                self._send_batch(store, batch)
            except StoreError:
                self._batch = max(_SMALLEST_BATCH, self._batch // 2)
                raise
            self._batch = _BATCH
            self._waiting = self._waiting[len(batch) :]
            sent += len(batch)
            self._marks.delivered |= {key: step for key, _, _, step in batch}
            self._save()
        return sent

    def _send_batch(self, store: MlflowStore, batch: list[Sample]) -> None:
        """Send a batch; one that MLflow refuses is halved until the value at fault stands alone and is left out."""
        try:
            store.send(self._marks.run_id, metrics=batch)
        except StoreError as error:
            if not error.refused:
                raise
            if len(batch) == 1:
                self._refuse(f"metric {batch[0][0]!r} at step {batch[0][3]}", error)
                return
            middle = len(batch) // 2
            self._send_batch(store, batch[:middle])
            self._send_batch(store, batch[middle:])

    def _send_artifacts(self, store: MlflowStore) -> None:
        """Upload the listed files that are new or have changed."""
        for path, folder in self._record.artifacts:
            self._send_artifact(store, Path(path), folder)

    def _send_artifact(self, store: MlflowStore, path: Path, folder: str) -> None:
        """Upload a file that is new or has changed."""
        state = _state_of(path)
        key = f"{folder}/{path.name}"
        if state is not None and self._marks.artifacts.get(key) != state:
            self._send_or_refuse(lambda: store.upload(self._marks.run_id, path, folder), f"file {path}")
            self._marks.artifacts[key] = state
            self._save()

    def _send_evaluations(self, store: MlflowStore) -> int:
        """Send what `vgpt eval` left with a run that has ended, with its figures; MLflow keeps equal points once."""
        sent = 0
        for name, samples_in in EVALUATED.items():
            path = self._run_dir / name
            if _state_of(path) in (None, self._marks.artifacts.get(f"/{path.name}")):
                continue
            if not (samples := samples_in(self._run_dir, self._record)):
                continue
            # The file's mark comes last: what is sent again after a failure changes nothing.
            for begin in range(0, len(samples), _BATCH):
                self._send_batch(store, samples[begin : begin + _BATCH])
            self._send_artifact(store, path, "")
            sent += len(samples)
        return sent

    def _send_status(self, store: MlflowStore, status: str) -> None:
        if status != "running" and self._marks.status != status:
            store.set_status(self._marks.run_id, _MLFLOW_STATUS[status], ended=self._record.ended or now_ms())
            self._marks.status = status
            self._save()

    def _send_or_refuse(self, send: Callable[[], None], what: str) -> None:
        try:
            send()
        except StoreError as error:
            if not error.refused:
                raise
            self._refuse(what, error)

    def _refuse(self, what: str, error: StoreError) -> None:
        self._marks.refused += 1
        if self._marks.refused == 1:
            self._notify(f"MLflow refuses {what}: {error}; it stays in the journal")

    def _save(self) -> None:
        self._marks.store = self._target.shown
        saved = read_json(self._run_dir / SYNC_FILE) or {}
        stores = table_of(saved.get("stores")) if saved.get("id") == self._record.id else {}
        stores[_store_key(self._target)] = asdict(self._marks)
        replace_json(self._run_dir / SYNC_FILE, {"id": self._record.id, "stores": stores})


def _samples(points: list[Point]) -> Iterator[Sample]:
    for point in points:
        for key, value in point.metrics.items():
            yield key, value, point.time, point.step


def _state_of(path: Path) -> list[int] | None:
    """Return what changes with a file's content; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _store_key(target: Target) -> str:
    return sha256(target.shown.encode(errors="surrogateescape")).hexdigest()[:16]
