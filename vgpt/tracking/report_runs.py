"""Runs of MLflow that were not trained: a comparison's report, the parents of studies, their sealed plans."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vgpt.errors import TrackingError
from vgpt.tracking.journal import now_ms
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore, open_for_reading
from vgpt.tracking.mlflow_store.reasons import StoreError
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import KIND_COMPARISON, KIND_PLAN, KIND_STUDY, SCHEMA_VERSION, Tag
from vgpt.tracking.store import within

LOG_TIMEOUT = 60.0


def log_comparison(
    *,
    name: str,
    experiment: str,
    run_ids: list[str],
    files: Mapping[str, bytes],
    tracking_uri: str | None = None,
    timeout: float = LOG_TIMEOUT,
    kind: str = KIND_COMPARISON,
) -> str:
    """Log a comparison to the experiment of its runs and return the id of its run.

    Args:
        name: name of the run.
        experiment: created where it does not exist.
        run_ids: ids in MLflow of what was compared.
        files: artifacts: name -> content.
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that all of it may take.
        kind: what it is, its tag vgpt.kind.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """
    tags: dict[str, str] = {Tag.SCHEMA: SCHEMA_VERSION, Tag.KIND: kind, Tag.COMPARED: " ".join(run_ids)}
    return writing(tracking_uri, lambda store: _write(store, name, experiment, tags, files), timeout)


def writing(tracking_uri: str | None, work: Callable[[MlflowStore], str], timeout: float) -> str:
    """Return what `work` makes of the store, opened for writing.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """
    target = resolve_target(tracking_uri)

    def write() -> str:
        try:
            return work(MlflowStore(target, write=True))
        except (OSError, StoreError) as error:
            raise TrackingError(f"MLflow at {target.shown} cannot be written: {error}") from None

    return within(timeout, write, target)


def _write(store: MlflowStore, name: str, experiment: str, tags: Mapping[str, str], files: Mapping[str, bytes]) -> str:
    place = store.experiment_id(experiment, create=True)
    assert place is not None
    run_id = store.create_run(place, name=name, started=now_ms(), tags=tags)
    ending = "FAILED"
    try:
        _upload(store, run_id, files)
        ending = "FINISHED"
    finally:
        store.set_status(run_id, ending, ended=now_ms())
    return run_id


def _upload(store: MlflowStore, run_id: str, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="vgpt-") as folder:
        for file, content in files.items():
            path = Path(folder) / file
            path.write_bytes(content)
            store.upload(run_id, path, "")


TAG_PARENT = "mlflow.parentRunId"
"""MLflow's own tag of a nested run."""


def gather_under_study(
    study: str,
    *,
    experiment: str,
    runs: Iterable[RunInfo],
    files: Mapping[str, bytes] | None = None,
    tracking_uri: str | None = None,
    timeout: float = LOG_TIMEOUT,
) -> str:
    """Make runs the children of the run of their study, which is created where there is none; return its id.

    A run that has a parent, being of another study too, keeps it: MLflow knows one. Its tag of the group is the same
    way that of the study it was trained for.

    Args:
        study: name of the study.
        experiment: of all of them.
        runs: those that MLflow does not know are passed over.
        files: artifacts of the study's own run: name -> content; those of the same name are replaced.
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that all of it may take.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """
    wanted = {run.run_id for run in runs if run.run_id}

    def gather(store: MlflowStore) -> str:
        place = store.experiment_id(experiment, create=True)
        assert place is not None
        tags: dict[str, str] = {Tag.KIND: KIND_STUDY, Tag.GROUP: study}
        parent = next((run.run_id for run in store.runs(place, tags)), None)
        if parent is None:
            parent = store.create_run(place, name=study, started=now_ms(), tags={Tag.SCHEMA: SCHEMA_VERSION, **tags})
            store.set_status(parent, "FINISHED", ended=now_ms())
        for run in store.runs(place, {}):
            if run.run_id in wanted and TAG_PARENT not in run.tags:
                store.send(run.run_id, tags={TAG_PARENT: parent})
        _upload(store, parent, files or {})
        return parent

    return writing(tracking_uri, gather, timeout)


@dataclass(frozen=True)
class StoredPlan:
    """A sealed plan that MLflow holds.

    Attributes:
        run_id: of the run that it is.
        hash: of the plan.
        looks: how often its metric had been looked at, and the hash of the last look's line; `0 ` before the first.
    """

    run_id: str
    hash: str
    looks: str


def log_plan(
    study: str,
    digest: str,
    content: bytes,
    *,
    looks: str,
    experiment: str,
    tracking_uri: str | None = None,
    timeout: float = LOG_TIMEOUT,
) -> str:
    """Log the sealed plan of a study as a run of its own and return the run's id.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """
    tags: dict[str, str] = {Tag.SCHEMA: SCHEMA_VERSION, Tag.KIND: KIND_PLAN, Tag.GROUP: study, Tag.PLAN: digest}
    tags[Tag.LOOKS] = looks
    files = {"plan.json": content}
    return writing(tracking_uri, lambda store: _write(store, f"plan {study}", experiment, tags, files), timeout)


def stored_plans(
    study: str, *, experiment: str, tracking_uri: str | None = None, timeout: float = LOG_TIMEOUT
) -> list[StoredPlan]:
    """Return the plans of a study in MLflow, the oldest first; a store that is not there holds none.

    Raises:
        TrackingError: the store cannot be read, or not in time.
    """
    target = resolve_target(tracking_uri)
    if target.database is not None and not target.database.exists():
        return []

    def read() -> list[StoredPlan]:
        store = open_for_reading(target)
        place = store.experiment_id(experiment, create=False)
        if place is None:
            return []
        found = list(store.runs(place, {Tag.KIND: KIND_PLAN, Tag.GROUP: study}))
        return [StoredPlan(run.run_id, run.tags.get(Tag.PLAN, ""), run.tags.get(Tag.LOOKS, "")) for run in found[::-1]]

    return within(timeout, read, target)


def note_looks(run_id: str, looks: str, *, tracking_uri: str | None = None, timeout: float = LOG_TIMEOUT) -> None:
    """Write down with a plan how often it was looked at.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """

    def send(store: MlflowStore) -> str:
        store.send(run_id, tags={Tag.LOOKS: looks})
        return run_id

    writing(tracking_uri, send, timeout)
