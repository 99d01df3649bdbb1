"""A study as a run of its own in MLflow, under which its UI shows the runs of the study."""

from collections.abc import Iterable

from vgpt.tracking.comparison_run import LOG_TIMEOUT, writing
from vgpt.tracking.journal import now_ms
from vgpt.tracking.mlflow_client import MlflowStore
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import KIND_STUDY, SCHEMA_VERSION, Tag

TAG_PARENT = "mlflow.parentRunId"
"""MLflow's own tag of a nested run."""


def gather_under_study(
    study: str,
    *,
    experiment: str,
    runs: Iterable[RunInfo],
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
        return parent

    return writing(tracking_uri, gather, timeout)
