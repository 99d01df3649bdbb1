"""What is on record of trainings: a folder of each, with its journal, its settings and, once it has ended, its outcome.

A folder without an outcome is of a training that was stopped, or that goes on; it is begun again. Nothing here is
believed that does not read as what it should be.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgpt.files.writing import replace_json
from vgpt.probe.recipe import Trial
from vgpt.tracking.lines import read_json

OUTCOME_FILE = "outcome.json"
TRIAL_FILE = "trial.json"
SENT_FILE = "mlflow.json"
LOCK_FILE = "run.lock"


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        validation: accuracy on the validation instances at the end, at the training settings.
        test: accuracy at each point of the recipe.
        steps: optimizer steps that were taken.
        loss: mean over the last steps, nats per answer; None where it was not finite, which ended the training.
        seconds: of training and tests.
        ended: when, in milliseconds since 1970.
    """

    validation: float
    test: tuple[float, ...]
    steps: int
    loss: float | None
    seconds: float
    ended: int

    @classmethod
    def of_table(cls, table: Mapping[str, Any], points: int) -> "Outcome":
        """Return what was written down.

        Raises:
            ValueError, KeyError, TypeError: it is none, or of another number of points.
        """
        test = tuple(float(value) for value in table["test"])
        loss = None if table["loss"] is None else float(table["loss"])
        found = cls(
            float(table["validation"]), test, int(table["steps"]), loss, float(table["seconds"]), int(table["ended"])
        )
        if len(test) != points or not all(0 <= value <= 1 for value in (found.validation, *test)):
            raise ValueError("accuracies are shares, one at each point")
        return found


def read_outcome(directory: Path, trial: Trial) -> Outcome | None:
    """Return the outcome of a training; None where there is none, or no whole one."""
    table = read_json(directory / trial.folder / OUTCOME_FILE)
    try:
        return None if table is None else Outcome.of_table(table, len(trial.recipe.points))
    except (ValueError, KeyError, TypeError):
        return None


def write_outcome(directory: Path, trial: Trial, outcome: Outcome) -> None:
    """Write down what came of a training, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory / trial.folder
    replace_json(folder / TRIAL_FILE, trial.as_table())
    replace_json(folder / OUTCOME_FILE, asdict(outcome), sync=True)


def on_record(directory: Path, trials: Iterable[Trial]) -> dict[Trial, Outcome]:
    """Return the outcomes that there are, in the order of the trainings."""
    found = {trial: read_outcome(directory, trial) for trial in trials}
    return {trial: outcome for trial, outcome in found.items() if outcome is not None}
