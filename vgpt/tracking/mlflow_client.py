"""The only file that imports MLflow: its client behind plain types, silenced, with every failure told in one line.

Nothing here is called by a training process while it trains: the mirror runs in a process of its own.
"""

import contextlib
import logging
import math
import os
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgpt.errors import TrackingError
from vgpt.locks import lock
from vgpt.tracking.target import Target

_PAGE = 500
_MAX_TAG = 5000
_MAX_PARAM = 6000
_INIT_TIMEOUT = 60.0
# What MLflow answers to a request that no repetition will make right.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

_FAMILIAR = {
    "Connection refused": "connection refused",
    "timed out": "no answer in time",
    "NameResolutionError": "unknown host",
    "Connection reset": "the connection broke",
    "Connection aborted": "the connection broke",
    "error code 401": "the server wants other credentials (401)",
    "error code 403": "the server refuses access (403)",
    "database is locked": "the database is locked by another process",
}


class StoreError(Exception):
    """A call to MLflow failed. `refused`: the request itself is at fault, so that repeating it is useless."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow holds it; `status` is MLflow's word, times are milliseconds since 1970."""

    run_id: str
    run_name: str
    status: str
    start_time: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class MlflowStore:
    """A tracking store, opened.

    Args:
        target: the store; its environment is set during calls alone, since MLflow reads credentials from nowhere else.
        write: create a missing SQLite store and check that it can be written.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(self, target: Target, *, write: bool) -> None:
        self._target = target
        if target.database is not None:
            _check_database(target, target.database, write=write)
        with self._calls():
            _silence(databases=target.database is not None)
            # Databases are opened one process at a time: several that create or migrate one at once break it.
            with _exclusively(target.database):
                if target.database is not None and _is_empty(target.database):
                    _create_database(target.database)
                from mlflow import MlflowClient

                self._client = MlflowClient(target.uri)
                if target.database is not None:
                    self._client.search_experiments(max_results=1)

    def experiment_id(self, name: str, *, create: bool) -> str | None:
        """Return the id of an experiment, created if asked for, else None where it does not exist."""
        with self._calls(), _exclusively(self._target.database if create else None):
            experiment = self._client.get_experiment_by_name(name)
            if experiment is not None:
                if experiment.lifecycle_stage == "deleted":
                    hint = f"`mlflow experiments restore -x {experiment.experiment_id}`"
                    raise StoreError(f"the experiment {name!r} was deleted in MLflow; {hint} brings it back")
                return experiment.experiment_id
            if not create:
                return None
            location = None
            if self._target.database is not None:
                location = (self._target.database.parent / "mlruns").as_uri()
            return self._client.create_experiment(name, artifact_location=location)

    def create_run(self, experiment_id: str, *, name: str, started: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        with self._calls():
            run = self._client.create_run(experiment_id, start_time=started, tags=_clip(tags, _MAX_TAG), run_name=name)
            return run.info.run_id

    def send(
        self,
        run_id: str,
        *,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics as (key, value, time, step), params and tags of a run in one request."""
        with self._calls():
            from mlflow.entities import Metric, Param, RunTag

            self._client.log_batch(
                run_id,
                metrics=[Metric(key, value, time, step) for key, value, time, step in metrics],
                params=[Param(key, value) for key, value in _clip(params or {}, _MAX_PARAM).items()],
                tags=[RunTag(key, value) for key, value in _clip(tags or {}, _MAX_TAG).items()],
                synchronous=True,
            )

    def set_status(self, run_id: str, status: str, *, ended: int | None = None) -> None:
        """Set MLflow's status of a run: RUNNING, or one of its ends with the time."""
        with self._calls():
            if ended is None:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=ended)

    def upload(self, run_id: str, path: Path, folder: str) -> None:
        """Copy a file to the run's artifacts."""
        with self._calls():
            self._client.log_artifact(run_id, str(path), folder or None)

    def download(self, run_id: str, name: str) -> bytes | None:
        """Return the content of an artifact at the top of a run's artifacts; None where there is none."""
        with self._calls(), tempfile.TemporaryDirectory(prefix="vgpt-") as place:
            if all(found.path != name for found in self._client.list_artifacts(run_id)):
                return None
            return Path(self._client.download_artifacts(run_id, name, place)).read_bytes()

    def runs(self, experiment_id: str, where: Mapping[str, str]) -> Iterator[StoredRun]:
        """Yield the runs that carry all the given tags, newest first, whatever their number."""
        quotable = {key: value for key, value in where.items() if not set("'\"`\\") & set(key + value)}
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in quotable.items())
        token = None
        while True:
            with self._calls():
                page = self._client.search_runs(
                    [experiment_id], query, max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token
                )
            for run in page:
                if all(run.data.tags.get(key) == value for key, value in where.items()):
                    yield _stored_run(run)
            token = page.token
            if not token:
                return

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, by step."""
        with self._calls():
            points = {(m.step, m.timestamp): float(m.value) for m in self._client.get_metric_history(run_id, key)}
        return [(step, _restored(value)) for (step, _), value in sorted(points.items())]

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        """Turn whatever MLflow and the libraries below it raise into a `StoreError` of one redacted line."""
        before = {name: os.environ.get(name) for name in self._target.environment}
        os.environ.update(self._target.environment)
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - MLflow, SQLAlchemy, requests and drivers share no base class
            refused = getattr(error, "error_code", "") in _REFUSALS
            raise StoreError(self._target.redact(_reason(error)), refused=refused) from None
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def open_for_reading(target: Target) -> MlflowStore:
    """Open a store for a command that cannot do without it.

    Raises:
        TrackingError: it cannot be opened; the hint says what else to do.
    """
    try:
        return MlflowStore(target, write=False)
    except StoreError as error:
        raise unreadable(target, str(error)) from None


def unreadable(target: Target, reason: str) -> TrackingError:
    """Return the error of a store that a command needs and cannot read."""
    if "out-of-date database schema" in reason:
        hint = f"It was made by another version of MLflow; `mlflow db upgrade {target.shown}` brings it up to date."
    else:
        hint = (
            "Check MLFLOW_TRACKING_URI (environment or .env) and its server; the runs' own journals are not affected."
        )
    return TrackingError(f"MLflow at {target.shown} cannot be read: {reason}", hint)


def _reason(error: Exception) -> str:
    """Say in a few words what an exception of MLflow, or of what lies below it, means."""
    text = str(error).strip()
    for sign, meaning in _FAMILIAR.items():
        if sign in text:
            return meaning
    return (f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__)[:300]


def _stored_run(run: Any) -> StoredRun:
    metrics = {key: _restored(float(value)) for key, value in run.data.metrics.items()}
    info = run.info
    tags, params = dict(run.data.tags), dict(run.data.params)
    return StoredRun(info.run_id, info.run_name or "", info.status, info.start_time or 0, params, metrics, tags)


def _restored(value: float) -> float:
    """Undo MLflow's replacement of infinity by the largest float."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _clip(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    return {key: value[:limit] for key, value in texts.items()}


def _silence(*, databases: bool) -> None:
    """Keep the warnings and migration logs of MLflow and its libraries off the user's terminal."""
    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.entities

        if databases:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - likewise


def _check_database(target: Target, path: Path, *, write: bool) -> None:
    """Fail at once where MLflow would retry for minutes: a directory or file that cannot be read or written."""
    try:
        if not write and not path.exists():
            raise StoreError(f"{path} does not exist")
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rwc" if write else "rw" if os.access(path, os.W_OK) else "ro"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=3.0)) as database:
            database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            database.execute("PRAGMA schema_version").fetchone()
            database.rollback()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(target.redact(f"{path}: {reason}")) from None


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _create_database(path: Path) -> None:
    """Create the tables in a draft that is then renamed: a kill in the midst leaves no half-made store behind."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    try:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _exclusively(database: Path | None) -> Iterator[None]:
    """Hold a lock on the directory of a SQLite store (no lock file is left behind); nothing for other stores."""
    if database is None:
        yield
        return
    fd = os.open(database.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # None: a file system without locks, where MLflow itself does without as well.
        if lock(fd, timeout=_INIT_TIMEOUT) is False:
            raise StoreError(f"{database.parent} is locked by another process")
        yield
    finally:
        os.close(fd)
