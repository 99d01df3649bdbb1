"""Equal-effort tuning of the learning rate: the same rates for every variant, chosen and reported on other windows.

The fixed evaluation windows are divided: the even ones (0, 2, ...) choose each variant's rate, by the mean of its
seeds; the odd ones tell the losses that are compared. A rate that won by luck on the former gains nothing on the
latter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from vgpt.report.audit import audit
from vgpt.report.comparison import Comparison, sorted_rows
from vgpt.report.differences import Windows, row_statistics
from vgpt.report.grouping import Row
from vgpt.report.known import KnownRuns
from vgpt.report.numbers import BITS, LOSS, LOSS_SE, PERPLEXITY
from vgpt.report.plan import Wanted
from vgpt.settings.compare import SortKey
from vgpt.tracking.store import RunInfo
from vgpt.tracking.windows import WindowLosses

TUNED = ("lr", "min_lr")
"""Settings that the choice of a rate sets; what else differs is unequal as ever."""

DIVERGED = "diverged"

Half = Callable[[WindowLosses], tuple[float, ...]]


@dataclass(frozen=True)
class Tuned:
    """The rates of one variant.

    Attributes:
        label: the variant with its settings.
        tuning: mean loss over the tuning windows by rate; infinite where a run diverged; None where runs are missing.
        chosen: the rate with the lowest of them; None while one is missing, or where all diverged.
        at_chosen: mean loss over the other windows at that rate.
        at_common: the same at the common rate.
        edge: "lowest" or "highest" where the chosen rate is the grid's; a better one may lie beyond.
    """

    label: str
    tuning: Mapping[float, float | None]
    chosen: float | None
    at_chosen: float | None
    at_common: float | None
    edge: str = ""


@dataclass(frozen=True)
class Sweep:
    """The grid, lowest rate first, the rate that the others are multiples of, and what came of it.

    `rows` are those of all rates.
    """

    rates: tuple[float, ...]
    common: float
    variants: tuple[Tuned, ...]
    rows: tuple[Row, ...]


def grid(lr: float, number: int) -> tuple[float, ...]:
    """Return `number` rates, an odd one, each twice the one before, with `lr` in their middle."""
    return tuple(lr * 2.0**power for power in range(-(number // 2), number // 2 + 1))


def tuned_comparison(
    at_rates: Mapping[float, Comparison],
    common: float,
    runs: Sequence[RunInfo],
    windows: Windows,
    *,
    sort: SortKey = "given",
) -> Comparison:
    """Return the comparison of variants at the rates that suit each, by losses on the windows that did not choose.

    A variant whose runs at some rate are missing has no row: it was not tuned as hard as the others.

    Args:
        at_rates: the same comparison at every rate of the grid, lowest first.
        common: the rate in the grid's middle.
        runs: all runs on record; a run that diverged is an answer, and not missing.
        windows: finds the losses per window of a run, which it may be asked for more than once.
        sort: order of the rows.
    """
    middle = at_rates[common]
    diverged = KnownRuns(run for run in runs if run.status == DIVERGED)
    wanted = [run for found in at_rates.values() for run in found.missing]
    missing = tuple(run for run in wanted if diverged.find(run.config) is None)
    broken = {rate: [run for run in found.missing if run not in missing] for rate, found in at_rates.items()}
    found_rows = [row for found in at_rates.values() for row in found.rows]
    stopped = [run.label for found in broken.values() for run in found]
    labels = list(dict.fromkeys([*(row.label for row in (*middle.rows, *found_rows)), *stopped]))
    remarks = list(dict.fromkeys(remark for found in at_rates.values() for remark in found.remarks))
    variants: list[Tuned] = []
    rows: list[Row] = []
    for label in labels:
        by_rate = {rate: _row_of(found, label) for rate, found in at_rates.items()}
        tuning = {rate: _tuning(row, broken[rate], label, windows) for rate, row in by_rate.items()}
        one = _tuned(label, tuning, by_rate, common, windows)
        variants.append(one)
        row = by_rate[one.chosen] if one.chosen is not None else None
        if row is not None:
            rows.append(replace(row, runs=tuple(_on_report_windows(run, windows) for run in row.runs)))
        else:
            absent = ", ".join(f"{rate:g}" for rate, loss in tuning.items() if loss is None)
            why = f"runs or losses per window are missing at lr {absent}" if absent else "it diverged at every rate"
            remarks.append(f"{label} is not shown: {why}")
        if one.edge:
            remarks.append(
                f"{label} does best at the {one.edge} rate of the grid, {one.chosen:g}; a better one may lie beyond"
            )
    if rows and rows[0].label != labels[0]:
        remarks.append(f"differences are against {rows[0].label}")
    rows = sorted_rows(rows, sort)
    audited = audit(rows, tuned=TUNED)
    return replace(
        middle,
        rows=tuple(rows),
        audit=audited,
        missing=missing,
        remarks=tuple(remarks),
        statistics=row_statistics(rows, audited, windows=_report_reader(windows), force=middle.force),
        sweep=Sweep(tuple(at_rates), common, tuple(variants), tuple(found_rows)),
    )


def tuning_half(found: WindowLosses) -> tuple[float, ...]:
    """Return the losses of the windows that choose: 0, 2, 4, ..."""
    return found.losses[::2]


def report_half(found: WindowLosses) -> tuple[float, ...]:
    """Return the losses of the windows that are reported: 1, 3, 5, ..."""
    return found.losses[1::2]


def _tuned(
    label: str,
    tuning: Mapping[float, float | None],
    by_rate: Mapping[float, Row | None],
    common: float,
    windows: Windows,
) -> Tuned:
    at_common = _mean(by_rate[common], report_half, windows)
    known = {rate: loss for rate, loss in tuning.items() if loss is not None and math.isfinite(loss)}
    if not known or None in tuning.values():
        return Tuned(label, tuning, None, None, at_common)
    # Of equal ones, the nearest to the common rate.
    chosen = min(known, key=lambda rate: (known[rate], abs(math.log(rate / common))))
    edge = {min(tuning): "lowest", max(tuning): "highest"}.get(chosen, "")
    return Tuned(label, tuning, chosen, _mean(by_rate[chosen], report_half, windows), at_common, edge)


def _tuning(row: Row | None, broken: Sequence[Wanted], label: str, windows: Windows) -> float | None:
    if any(run.label == label for run in broken):
        return math.inf
    return _mean(row, tuning_half, windows) if row is not None and len(row.runs) == row.wanted else None


def _mean(row: Row | None, half: Half, windows: Windows) -> float | None:
    """Return the mean over seeds; None where a run has no losses per window, or not two of them."""
    found = [windows(run) for run in row.runs] if row is not None else []
    losses = [half(one) for one in found if one is not None]
    if not losses or len(losses) < len(found) or not all(losses):
        return None
    return fmean(fmean(one) for one in losses)


def _row_of(comparison: Comparison, label: str) -> Row | None:
    return next((row for row in comparison.rows if row.label == label), None)


def _on_report_windows(run: RunInfo, windows: Windows) -> RunInfo:
    """Return a run whose validation loss, and what follows from it, is that of the report's windows."""
    found = windows(run)
    losses = report_half(found) if found is not None else ()
    if not losses:
        return run
    loss, before = fmean(losses), run.metrics.get(LOSS, math.nan)
    changed = {LOSS: loss, PERPLEXITY: math.exp(loss), LOSS_SE: math.nan}
    if len(losses) > 1:
        changed[LOSS_SE] = stdev(losses) / math.sqrt(len(losses))
    if BITS in run.metrics and before:
        changed[BITS] = run.metrics[BITS] * loss / before  # bytes per token are those of the whole
    return replace(run, metrics={**run.metrics, **changed})


def _report_reader(windows: Windows) -> Windows:
    def read(run: RunInfo) -> WindowLosses | None:
        found = windows(run)
        return found and replace(found, losses=report_half(found))

    return read
