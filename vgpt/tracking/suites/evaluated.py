"""What `vgpt eval` left with a run that has ended, of every kind: its figures for comparisons and for MLflow."""

from collections.abc import Callable
from pathlib import Path

from vgpt.tracking.breakdowns.record import EVALUATIONS_FILE, breakdowns_in
from vgpt.tracking.breakdowns.record import metrics_of as breakdown_metrics
from vgpt.tracking.owned_file import owner_of
from vgpt.tracking.record import RunRecord
from vgpt.tracking.suites.record import SUITES_FILE, results_in
from vgpt.tracking.suites.record import metrics_of as suite_metrics

Samples = list[tuple[str, float, int, int]]
"""Values of metrics: name, value, time in milliseconds, and what MLflow calls the step."""


def _of_breakdowns(run_dir: Path, record: RunRecord) -> Samples:
    found = breakdowns_in(run_dir, owner_of(record))
    return [(str(name), value, one.made, step) for one in found for name, value, step in one.figures()]


def _of_suites(run_dir: Path, record: RunRecord) -> Samples:
    found = results_in(run_dir, owner_of(record))
    return [(name, value, one.made, one.step) for one in found for name, value in one.metrics().items()]


EVALUATED: dict[str, Callable[[Path, RunRecord], Samples]] = {
    EVALUATIONS_FILE: _of_breakdowns,
    SUITES_FILE: _of_suites,
}
"""The files of a run's directory that hold them, each with what reads the values; none of another run."""


def evaluated_metrics(run_dir: Path, record: RunRecord) -> dict[str, float]:
    """Return the last value of each metric."""
    owner = owner_of(record)
    return breakdown_metrics(breakdowns_in(run_dir, owner)) | suite_metrics(results_in(run_dir, owner))
