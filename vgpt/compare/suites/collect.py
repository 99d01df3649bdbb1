"""Standard suites over the runs of a comparison: means over seeds, and differences to the baseline.

Runs that were asked the same (equal digests) in the same precision are held against each other document by document,
and by seed where seeds are shared. Others are named, and not compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from vgpt.compare.breakdowns.collect import earlier_than_the_last_step, missing_of
from vgpt.compare.breakdowns.differences import PartDifference, difference
from vgpt.compare.rows import Row
from vgpt.tracking.breakdowns.record import Part
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.suites.record import BITS, TaskResult

Reader = Callable[[RunInfo], Mapping[str, TaskResult]]
Known = Sequence[tuple[RunInfo, TaskResult]]


@dataclass(frozen=True)
class RowFigure:
    """A figure of a task in a row.

    Attributes:
        value: mean over the runs.
        se: standard error of one run's figure over documents, the mean over the runs; NaN from one document.
        difference: to the baseline; None for it, for figures that are no means of documents, and where the baseline
            was not asked the same.
    """

    value: float
    se: float
    difference: PartDifference | None = None


@dataclass(frozen=True)
class RowSuite:
    """A task in a row.

    Attributes:
        label: of the row.
        runs: how many of its runs were asked this.
        figures: by the name of the metric; empty where none was.
        missing: names of the runs that were not asked it, or asked otherwise.
        earlier: names of the runs whose best checkpoint, which it is of, is not their last step, which losses are of.
    """

    label: str
    runs: int
    figures: Mapping[str, RowFigure] = field(default_factory=dict[str, RowFigure])
    missing: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteTask:
    """A task, asked alike of all rows.

    Attributes:
        task: its name.
        asked: what came of it on one run, which says how it asks.
        rows: by label, in the order of the comparison.
    """

    task: str
    asked: TaskResult
    rows: Mapping[str, RowSuite]


def collect_suites(rows: Sequence[Row], read: Reader) -> dict[str, SuiteTask]:
    """Return the suites that runs of the rows have on record, by task.

    Of several ways in which a task was asked, that of the baseline counts; where it has none, what most runs have.
    """
    known = {row.label: [(run, read(run)) for run in row.runs] for row in rows}
    names = dict.fromkeys(name for pairs in known.values() for _, results in pairs for name in results)
    found: dict[str, SuiteTask] = {}
    for name in names:
        here = {label: [(run, one[name]) for run, one in pairs if name in one] for label, pairs in known.items()}
        found[name] = _task(name, rows, here)
    return found


def _task(name: str, rows: Sequence[Row], known: Mapping[str, Known]) -> SuiteTask:
    every = [one for pairs in known.values() for _, one in pairs]
    ways = [_way(one) for _, one in known[rows[0].label]] or [_way(one) for one in every]
    way = max(ways, key=ways.count)
    same = {label: [(run, one) for run, one in pairs if _way(one) == way] for label, pairs in known.items()}
    asked = next(one for one in every if _way(one) == way)
    there = same[rows[0].label]
    return SuiteTask(name, asked, {row.label: _row(row, same[row.label], there, row is rows[0]) for row in rows})


def _way(one: TaskResult) -> tuple[str, str]:
    """Return what has to be the same for two results to be compared."""
    return one.digest, one.dtype


def _row(row: Row, here: Known, there: Known, baseline: bool) -> RowSuite:
    names = [name for name in here[0][1].figures if all(name in one.figures for _, one in here)] if here else []
    figures = {
        name: RowFigure(
            fmean(one.figures[name].value for _, one in here),
            fmean(one.figures[name].se for _, one in here),
            None if baseline else difference(_side(here, name), _side(there, name)),
        )
        for name in names
    }
    earlier = earlier_than_the_last_step((run, one.step) for run, one in here)
    return RowSuite(row.label, len(here), figures, missing_of(row, here), earlier)


def _side(known: Known, name: str) -> list[tuple[str, Part]]:
    """Return what each run's documents gave, as parts in which each document has its weight."""
    sides: list[tuple[str, Part]] = []
    for run, one in known:
        values = np.array(one.values.get(name, ()), dtype=np.float64)
        if len(values) and np.isfinite(values).all():
            weights = np.array(one.weights if one.weights and name == BITS else [1] * len(values), dtype=np.int64)
            sides.append((run.seed, Part(name, 0, values, weights)))
    return sides
