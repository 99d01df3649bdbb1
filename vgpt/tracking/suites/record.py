"""What came of standard suites on a trained model, document by document: what `suites.json` holds.

`vgpt eval --suite` writes the file into the directory of a run; see `vgpt.tracking.owned_file`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vgpt.tracking.owned_file import DamagedError, Owner, damaged_if_malformed, read_owned, write_owned
from vgpt.tracking.schema import SUITE

SUITES_FILE = "suites.json"
_KEY = "tasks"
BITS = "bits_per_byte"
_FOREIGN = re.compile(r"[^\w\-. /:]", re.ASCII)
"""Letters that MLflow takes in no name."""


@dataclass(frozen=True)
class Figure:
    """A figure of a task with its standard error over documents; NaN where there is none."""

    value: float
    se: float


@dataclass(frozen=True)
class TaskResult:
    """What came of a task, or of a group of them.

    Attributes:
        task: its name.
        kind: how it asks: "multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"; "group".
        version: of the task, as its file says.
        fewshot: examples in each prompt.
        documents: how many were asked.
        of: how many it has.
        digest: SHA-256 of all that was asked: only equal ones compare. Empty for a group.
        figures: by the harness's name of the metric, with its filter behind a point where it has one.
        higher_is_better: by the same names, where the harness knows.
        values: what each document gave, in their order, for figures that are means of them.
        weights: bytes of each document, where bits per byte are those of all documents together; empty where each
            document counts alike.
        step: optimizer steps of the checkpoint.
        dtype: precision of matrix products.
        made: when, milliseconds since 1970.
    """

    task: str
    kind: str
    version: str
    fewshot: int
    documents: int
    of: int
    digest: str
    figures: Mapping[str, Figure]
    higher_is_better: Mapping[str, bool]
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]], repr=False)
    weights: tuple[int, ...] = field(default=(), repr=False)
    step: int = 0
    dtype: str = ""
    made: int = 0

    def table(self, *, values: bool = False) -> dict[str, Any]:
        """Return it as JSON takes it; what single documents gave only where asked for."""
        found = asdict(self)
        found["figures"] = {
            name: {"value": _finite(figure.value), "se": _finite(figure.se)} for name, figure in self.figures.items()
        }
        if not values:
            del found["values"], found["weights"]
        return found

    def metrics(self) -> dict[str, float]:
        """Return its figures, and their standard errors, by their names in the tracking schema."""
        found: dict[str, float] = {}
        for name, figure in self.figures.items():
            metric = metric_name(self.task, name)
            found |= {metric: figure.value, f"{metric}_se": figure.se}
        return {name: value for name, value in found.items() if math.isfinite(value)}


def metric_name(task: str, figure: str) -> str:
    """Return the name of a task's figure in the tracking schema."""
    return _FOREIGN.sub("_", f"{SUITE}{task}/{figure}")


def results_in(run_dir: Path, owner: Owner) -> tuple[TaskResult, ...]:
    """Return what a run directory holds; nothing where that is damaged, or of another run."""
    try:
        return parse((run_dir / SUITES_FILE).read_bytes(), owner)
    except (OSError, DamagedError):
        return ()


def metrics_of(found: Iterable[TaskResult]) -> dict[str, float]:
    """Return all figures by their names in the tracking schema."""
    return {name: value for one in found for name, value in one.metrics().items()}


def save(run_dir: Path, owner: Owner, found: Sequence[TaskResult]) -> Path:
    """Write results into a run's file and return it; those of other tasks that are its record stay.

    Raises:
        OSError: it cannot be written.
    """
    names = {one.task for one in found}
    kept = [one for one in results_in(run_dir, owner) if one.task not in names]
    tables = [_rounded(one.table(values=True)) for one in (*kept, *found)]
    return write_owned(run_dir / SUITES_FILE, owner, _KEY, tables)


def parse(content: bytes, owner: Owner) -> tuple[TaskResult, ...]:
    """Read the content of a file; nothing where it is of another run, or of an earlier state of this one.

    Raises:
        DamagedError: it is no such file, or was changed.
    """
    with damaged_if_malformed():
        return tuple(map(_result, read_owned(content, owner, _KEY)))


def _result(table: dict[str, Any]) -> TaskResult:
    figures = {str(name): Figure(_number(one["value"]), _number(one["se"])) for name, one in table["figures"].items()}
    values = {str(name): tuple(map(_number, each)) for name, each in table["values"].items()}
    directions = {str(name): bool(up) for name, up in table["higher_is_better"].items()}
    return TaskResult(
        task=str(table["task"]),
        kind=str(table["kind"]),
        version=str(table["version"]),
        fewshot=int(table["fewshot"]),
        documents=int(table["documents"]),
        of=int(table["of"]),
        digest=str(table["digest"]),
        figures=figures,
        higher_is_better=directions,
        values=values,
        weights=tuple(map(int, table["weights"])),
        step=int(table["step"]),
        dtype=str(table["dtype"]),
        made=int(table["made"]),
    )


def _rounded(table: dict[str, Any]) -> dict[str, Any]:
    values = {
        name: [None if not math.isfinite(value) else float(f"{value:.7g}") for value in each]
        for name, each in table["values"].items()
    }
    return table | {"values": values}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
