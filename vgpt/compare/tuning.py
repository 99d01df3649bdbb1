"""Equal-effort tuning of the learning rate: the same rates and seeds for every variant, reported on other seeds.

In the first stage every variant is trained at every rate with seeds of its own, by whose mean loss its rate is chosen.
In the second it is trained at that rate, and at the common one, with the seeds that are reported. A rate that won by
the luck of its seeds gains nothing by that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vgpt.compare.audit.conditions import audit
from vgpt.compare.comparison import TUNED, Comparison, LearningRateSweep, Tuned, sorted_rows
from vgpt.compare.known import KnownRuns
from vgpt.compare.metrics import LOSS, stat
from vgpt.compare.request import PlannedRun
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import row_statistics
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.compare.unfinished import DIVERGED, lost
from vgpt.settings.compare import SortKey
from vgpt.tracking.run_info import RunInfo


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
    missing: list[PlannedRun] = []
    for label in labels:
        tuning = {rate: _tuning(found, label, diverged) for rate, found in tried.items()}
        one = _tuned(label, tuning, reported, common, diverged)
        variants.append(one)
        missing += [wanted for found in tried.values() for wanted in _missing(found, label, diverged)]
        remarks += _remarks(one)
        if one.chosen is None:
            continue
        for rate in dict.fromkeys([one.chosen, common]):
            missing += _missing(reported[rate], label, diverged)
        if (row := _row_of(reported[one.chosen], label)) is not None:
            rows.append(row)
    if rows and rows[0].label != labels[0]:
        remarks.append(f"differences are against {rows[0].label}")
    rows = sorted_rows(rows, sort)
    seeds = dict.fromkeys(seed for one in tried.values() for row in one.rows for seed in row.seeds)
    # Seeds that chose a rate are not reported, on purpose.
    audited = audit(rows, tuned=TUNED, recorded=[run for run in runs if run.seed not in seeds])
    all_rows = tuple(row for one in every for row in one.rows)
    return replace(
        middle,
        rows=tuple(rows),
        audit=audited,
        missing=tuple(missing),
        remarks=tuple(remarks),
        statistics=row_statistics(rows, audited, windows=windows, force=middle.force, margin=middle.margin),
        sweep=LearningRateSweep(tuple(tried), common, tuple(variants), all_rows, tuple(seeds)),
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


def _remarks(one: Tuned) -> list[str]:
    """Say why a variant is not shown, or that a better rate than its own may not have been tried."""
    if one.chosen is None:
        absent = ", ".join(f"{rate:g}" for rate, loss in one.tuning.items() if loss is None)
        why = f"tuning runs or their losses are missing at lr {absent}" if absent else "it diverged at every rate"
        return [f"{one.label} is not shown: {why}"]
    if one.edge:
        return [
            f"{one.label} does best at the {one.edge} rate of the grid, {one.chosen:g}; a better one may lie beyond"
        ]
    return []


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


def _missing(found: Comparison, label: str, diverged: KnownRuns) -> list[PlannedRun]:
    """Return the runs of a variant that are to be trained: one that diverged would diverge again."""
    return [run for run in found.missing if run.label == label and diverged.find(run.config) is None]


def _mean(row: Row | None) -> float | None:
    found = stat(row, LOSS) if row is not None and not lost(row) else None
    return found.mean if found is not None else None


def _row_of(comparison: Comparison, label: str) -> Row | None:
    return next((row for row in comparison.rows if row.label == label), None)
