"""Equal-effort tuning of the learning rate: the same rates and seeds for every variant, reported on other seeds.

In the first stage every variant is trained at every rate with seeds of its own, by whose mean loss its rate is chosen.
In the second it is trained at that rate, and at the common one, with the seeds that are reported. A rate that won by
the luck of its seeds gains nothing by that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vgpt.report.audit import audit
from vgpt.report.comparison import Comparison, sorted_rows
from vgpt.report.differences import row_statistics
from vgpt.report.evaluation_noise import Windows
from vgpt.report.failed import DIVERGED, lost
from vgpt.report.grouping import Row
from vgpt.report.known import KnownRuns
from vgpt.report.numbers import LOSS, stat
from vgpt.report.plan import Wanted
from vgpt.settings.compare import SortKey
from vgpt.tracking.store import RunInfo

TUNED = ("lr", "min_lr")
"""Settings that the choice of a rate sets; what else differs is unequal as ever."""

TUNING_SEEDS = 1000
"""How far the first tuning seed is from the first reported one: as many as can be reported, so that none is both."""


@dataclass(frozen=True)
class Tuned:
    """The rates of one variant.

    Attributes:
        label: the variant with its settings.
        tuning: mean loss of the tuning seeds by rate; infinite where a run diverged; None where runs are missing.
        chosen: the rate with the lowest of them; None while one is missing, or where all diverged.
        at_chosen: mean loss of the reported seeds at that rate.
        at_common: the same at the common rate.
        edge: "lowest" or "highest" where the chosen rate is the grid's; a better one may lie beyond.
        later: the fewest and the most runs that its second stage may take; both 0 once its rate is chosen, since they
            are then among the missing.
    """

    label: str
    tuning: Mapping[float, float | None]
    chosen: float | None
    at_chosen: float | None
    at_common: float | None
    edge: str = ""
    later: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Sweep:
    """The grid, lowest rate first, the rate that the others are multiples of, and what came of it.

    Attributes:
        rates: the grid.
        common: the rate in its middle.
        variants: the rates of each.
        rows: those of all rates, of both stages.
        tuning_seeds: the seeds that chose.
    """

    rates: tuple[float, ...]
    common: float
    variants: tuple[Tuned, ...]
    rows: tuple[Row, ...]
    tuning_seeds: tuple[str, ...] = ()

    @property
    def later(self) -> tuple[int, int]:
        """The fewest and the most runs of the second stage that the first has not chosen yet."""
        return sum(one.later[0] for one in self.variants), sum(one.later[1] for one in self.variants)


def grid(lr: float, number: int) -> tuple[float, ...]:
    """Return `number` rates, an odd one, each twice the one before, with `lr` in their middle."""
    return tuple(lr * 2.0**power for power in range(-(number // 2), number // 2 + 1))


def tuned_comparison(
    labels: Sequence[str],
    tried: Mapping[float, Comparison],
    reported: Mapping[float, Comparison],
    common: float,
    runs: Sequence[RunInfo],
    *,
    windows: Windows | None = None,
    sort: SortKey = "given",
) -> Comparison:
    """Return the comparison of variants at the rates that suit each, by losses of seeds that did not choose.

    A variant whose tuning runs at some rate are missing has no row: it was not tuned as hard as the others.

    Args:
        labels: of the variants, the baseline first.
        tried: the same comparison at every rate of the grid, lowest first, with the tuning seeds.
        reported: the same with the reported seeds.
        common: the rate in the grid's middle.
        runs: all runs on record; a run that diverged is an answer, and not missing.
        windows: finds the losses per window of a run.
        sort: order of the rows.
    """
    middle = reported[common]
    diverged = KnownRuns(run for run in runs if run.status == DIVERGED)
    every = [*tried.values(), *reported.values()]
    remarks = list(dict.fromkeys(remark for one in every for remark in one.remarks))
    variants: list[Tuned] = []
    rows: list[Row] = []
    missing: list[Wanted] = []
    for label in labels:
        tuning = {rate: _tuning(found, label, diverged) for rate, found in tried.items()}
        one = _tuned(label, tuning, reported, common, diverged)
        variants.append(one)
        missing += [wanted for found in tried.values() for wanted in _missing(found, label, diverged)]
        if one.chosen is None:
            absent = ", ".join(f"{rate:g}" for rate, loss in tuning.items() if loss is None)
            why = f"tuning runs or their losses are missing at lr {absent}" if absent else "it diverged at every rate"
            remarks.append(f"{label} is not shown: {why}")
            continue
        for rate in dict.fromkeys([one.chosen, common]):
            missing += _missing(reported[rate], label, diverged)
        if (row := _row_of(reported[one.chosen], label)) is not None:
            rows.append(row)
        if one.edge:
            remarks.append(
                f"{label} does best at the {one.edge} rate of the grid, {one.chosen:g}; a better one may lie beyond"
            )
    if rows and rows[0].label != labels[0]:
        remarks.append(f"differences are against {rows[0].label}")
    rows = sorted_rows(rows, sort)
    audited = audit(rows, tuned=TUNED)
    seeds = dict.fromkeys(seed for one in tried.values() for row in one.rows for seed in row.seeds)
    all_rows = tuple(row for one in every for row in one.rows)
    return replace(
        middle,
        rows=tuple(rows),
        audit=audited,
        missing=tuple(missing),
        remarks=tuple(remarks),
        statistics=row_statistics(rows, audited, windows=windows, force=middle.force),
        sweep=Sweep(tuple(tried), common, tuple(variants), all_rows, tuple(seeds)),
    )


def _tuned(
    label: str,
    tuning: Mapping[float, float | None],
    reported: Mapping[float, Comparison],
    common: float,
    diverged: KnownRuns,
) -> Tuned:
    at_common = _mean(_row_of(reported[common], label))
    known = {rate: loss for rate, loss in tuning.items() if loss is not None and math.isfinite(loss)}
    if None in tuning.values():
        return Tuned(label, tuning, None, None, at_common, later=_later(label, reported, common, diverged))
    if not known:
        return Tuned(label, tuning, None, None, at_common)
    # Of equal ones, the nearest to the common rate.
    chosen = min(known, key=lambda rate: (known[rate], abs(math.log(rate / common))))
    edge = {min(tuning): "lowest", max(tuning): "highest"}.get(chosen, "")
    return Tuned(label, tuning, chosen, _mean(_row_of(reported[chosen], label)), at_common, edge)


def _later(label: str, reported: Mapping[float, Comparison], common: float, diverged: KnownRuns) -> tuple[int, int]:
    """Return how many runs are missing at the common rate, and with the rate at which most are missing."""
    counts = {rate: len(_missing(found, label, diverged)) for rate, found in reported.items()}
    return counts[common], counts[common] + max(count for rate, count in counts.items() if rate != common)


def _tuning(found: Comparison, label: str, diverged: KnownRuns) -> float | None:
    """Return the mean loss of the tuning seeds at a rate: infinite where one diverged, None where one is missing."""
    row = _row_of(found, label)
    stopped = [run for run in found.missing if run.label == label and diverged.find(run.config) is not None]
    if stopped or (row is not None and DIVERGED in lost(row)):
        return math.inf
    return _mean(row) if row is not None and len(row.runs) == row.wanted else None


def _missing(found: Comparison, label: str, diverged: KnownRuns) -> list[Wanted]:
    """Return the runs of a variant that are to be trained: one that diverged would diverge again."""
    return [run for run in found.missing if run.label == label and diverged.find(run.config) is None]


def _mean(row: Row | None) -> float | None:
    found = stat(row, LOSS) if row is not None and not lost(row) else None
    return found.mean if found is not None else None


def _row_of(comparison: Comparison, label: str) -> Row | None:
    return next((row for row in comparison.rows if row.label == label), None)
