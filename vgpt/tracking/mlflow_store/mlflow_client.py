"""The only file that imports MLflow: its client behind plain types, silenced, with every failure told in one line.

Nothing here is called by a training process while it trains: the mirror runs in a process of its own.
"""

# pyright: standard

import contextlib
import logging
import math
import shlex
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgpt.environment import environment_with
from vgpt.errors import TrackingError
from vgpt.files.writing import draft_of
from vgpt.tracking.mlflow_store.reasons import NEWER, OLDER, REFUSALS, StoreError, reason_of
from vgpt.tracking.mlflow_store.sqlite_file import address_of, check_database, exclusively, is_empty, spelled
from vgpt.tracking.mlflow_store.target import URI_VARIABLE, Target
from vgpt.tracking.schema import MOST_OF_A_PARAM, MOST_OF_A_TAG, as_stored

_PAGE = 500


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
            check_database(target, target.database, write=write)
        with self._calls():
            _silence(databases=target.database is not None)
            # Databases are opened one process at a time: several that create or migrate one at once break it.
            with exclusively(target.database):
                if target.database is not None and is_empty(target.database):
                    _create_database(target.database)
                from mlflow import MlflowClient

                self._client = MlflowClient(spelled(target))
                if target.database is not None:
                    self._client.search_experiments(max_results=1)

    def experiment_id(self, name: str, *, create: bool) -> str | None:
        """Return the id of an experiment, created if asked for, else None where it does not exist."""
        with self._calls(), exclusively(self._target.database if create else None):
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
            run = self._client.create_run(
                experiment_id, start_time=started, tags=as_stored(tags, MOST_OF_A_TAG), run_name=name
            )
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
                params=[Param(key, value) for key, value in as_stored(params or {}, MOST_OF_A_PARAM).items()],
                tags=[RunTag(key, value) for key, value in as_stored(tags or {}, MOST_OF_A_TAG).items()],
                synchronous=True,
            )

    def check_run(self, run_id: str) -> bool:
        """Return whether the store holds a run.

        Raises:
            StoreError: it holds it as deleted.
        """
        with self._calls():
            from mlflow.exceptions import MlflowException

            try:
                stage = self._client.get_run(run_id).info.lifecycle_stage
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
            if stage == "deleted":
                hint = f"`mlflow runs restore --run-id {run_id}` brings it back"
                raise StoreError(f"the run was deleted in MLflow; {hint}", refused=True)
            return True

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
    def _calls(self) -> Generator[None]:
        """Turn whatever MLflow and the libraries below it raise into a `StoreError` of one redacted line."""
        environment = self._target.environment
        if self._target.database is not None:
            environment = {**environment, URI_VARIABLE: spelled(self._target)}
        with environment_with(environment):
            try:
                yield
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow, SQLAlchemy, requests and drivers share no base class
                refused = getattr(error, "error_code", "") in REFUSALS
                raise StoreError(self._target.redact(reason_of(error)), refused=refused) from None


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
    if reason.startswith(OLDER):
        address = target.shown if target.database is None else shlex.quote(spelled(target))
        hint = f"`mlflow db upgrade {address}` brings it up to date, for good: keep a copy of it."
    elif reason.startswith(NEWER):
        hint = "`pip install --upgrade mlflow` brings one that reads it; or set MLFLOW_TRACKING_URI to another store."
    else:
        hint = (
            "Check MLFLOW_TRACKING_URI (environment or .env) and its server; the runs' own journals are not affected."
        )
    return TrackingError(f"MLflow at {target.shown} cannot be read: {reason}", hint)


def _stored_run(run: Any) -> StoredRun:
    metrics = {key: _restored(float(value)) for key, value in run.data.metrics.items()}
    info = run.info
    tags, params = dict(run.data.tags), dict(run.data.params)
    return StoredRun(info.run_id, info.run_name or "", info.status, info.start_time or 0, params, metrics, tags)


def _restored(value: float) -> float:
    """Undo MLflow's replacement of infinity by the largest float."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _silence(*, databases: bool) -> None:
    """Keep the warnings and migration logs of MLflow and its libraries off the user's terminal."""
    for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.entities

        if databases:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - likewise


def _create_database(path: Path) -> None:
    """Create the tables in a draft that is then renamed: a kill in the midst leaves no half-made store behind."""
    from mlflow import MlflowClient

    with draft_of(path) as draft:
        draft.unlink(missing_ok=True)
        MlflowClient(address_of(draft)).search_experiments(max_results=1)
