"""A probe in MLflow: a run that holds the card, and below it a run for every training, from the trainings' journals."""

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vgpt.files.writing import replace_json
from vgpt.probe.plan import ProbePlan
from vgpt.probe.recipe import Trial
from vgpt.probe.records import SENT_FILE, Outcome
from vgpt.tracking.journal import now_ms, read_metrics
from vgpt.tracking.lines import read_json
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.report_runs import TAG_PARENT, writing
from vgpt.tracking.schema import KIND_PROBE, SCHEMA_VERSION, Metric, Tag

TIMEOUT = 300.0
"""Seconds that all of it may take: some hundred runs, at a few hundredths of a second each where the store is local."""

_Point = tuple[str, float, int, int]


def log_probe(
    plan: ProbePlan,
    directory: Path,
    *,
    name: str,
    experiment: str,
    files: Mapping[str, bytes],
    tracking_uri: str | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Log a probe and return the id of its run.

    Trainings that another probe has brought to the same experiment before stay where they are.

    Args:
        plan: with the outcomes on record.
        directory: of all trainings.
        name: of the run.
        experiment: created where it does not exist.
        files: artifacts: name -> content.
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that all of it may take.

    Raises:
        TrackingError: the store cannot be reached or written, or not in time.
    """
    place = f"{resolve_target(tracking_uri).shown} {experiment}"

    def work(store: MlflowStore) -> str:
        number = store.experiment_id(experiment, create=True)
        assert number is not None
        parent = store.create_run(number, name=name, started=now_ms(), tags=_tags())
        with TemporaryDirectory(prefix="vgpt-") as folder:
            for file, content in files.items():
                path = Path(folder) / file
                path.write_bytes(content)
                store.upload(parent, path, "")
        for trial, outcome in plan.outcomes.items():
            _bring(store, number, parent, directory / trial.folder, place, trial, outcome)
        store.set_status(parent, "FINISHED", ended=now_ms())
        return parent

    return writing(tracking_uri, work, timeout)


def is_logged(plan: ProbePlan, directory: Path, *, experiment: str, tracking_uri: str | None = None) -> bool:
    """Return whether every training on record was brought to this experiment before."""
    place = f"{resolve_target(tracking_uri).shown} {experiment}"
    return all(place in (read_json(directory / trial.folder / SENT_FILE) or {}) for trial in plan.outcomes)


def _bring(
    store: MlflowStore, experiment: str, parent: str, folder: Path, place: str, trial: Trial, outcome: Outcome
) -> None:
    """Bring a training to MLflow, unless it is there; write down that it is."""
    sent = read_json(folder / SENT_FILE) or {}
    if place in sent and store.check_run(str(sent[place])):
        return
    started = outcome.ended - round(1000 * outcome.seconds)
    tags = {**_tags(), TAG_PARENT: parent, Tag.ATTN: trial.attn, Tag.SEED: str(trial.seed), Tag.RUN_DIR: str(folder)}
    run = store.create_run(experiment, name=folder.name, started=started, tags=tags)
    store.send(run, metrics=_points(folder, outcome), params=_params(trial))
    store.set_status(run, "FINISHED", ended=outcome.ended)
    replace_json(folder / SENT_FILE, {**sent, place: run})


def _tags() -> dict[str, str]:
    return {Tag.SCHEMA: SCHEMA_VERSION, Tag.KIND: KIND_PROBE}


def _points(folder: Path, outcome: Outcome) -> list[_Point]:
    found: list[_Point] = []
    for point in read_metrics(folder):
        found += [(key, value, point.time, point.step) for key, value in point.metrics.items() if math.isfinite(value)]
    found += [(Metric.PROBE_TEST, value, outcome.ended, number) for number, value in enumerate(outcome.test)]
    return [*found, (Metric.TRAIN_STEPS, float(outcome.steps), outcome.ended, outcome.steps)]


def _params(trial: Trial) -> dict[str, str]:
    """Return what the training was, flat; the points of the test in their order."""
    recipe: dict[str, Any] = trial.as_table()["recipe"]
    options = recipe.pop("options")
    del recipe["lrs"]
    points = "; ".join(point.label for point in trial.recipe.points)
    table = {**recipe, **options, "attn": trial.attn, "lr": trial.lr, "seed": trial.seed, "points": points}
    return {name: str(value) for name, value in table.items()}
