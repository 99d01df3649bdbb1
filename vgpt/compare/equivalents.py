"""How much training of the baseline a variant's loss is worth: the budget at which the baseline reaches that loss.

The baseline is trained at several budgets, each with a schedule of its own length, so that its losses there are those
of finished runs. Where on the curve through them a variant's loss lies is in `vgpt.compare.statistics.crossing`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vgpt.compare.audit.conditions import Audit, audit
from vgpt.compare.metrics import LOSS, Method
from vgpt.compare.request import PlannedRun
from vgpt.compare.rows import Row
from vgpt.compare.statistics.crossing import (
    LEAST_BUDGETS,
    BudgetCurve,
    Ends,
    EvaluationPart,
    Place,
    paired_ends,
    place_of,
    unpaired_ends,
)
from vgpt.compare.statistics.differences import LEAST_SEEDS, UNEQUAL
from vgpt.compare.statistics.evaluation_noise import Windows, evaluation_noise
from vgpt.compare.unfinished import lost
from vgpt.settings.compare import Worth
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.run_info import RunInfo

FACTORS = (0.7, 0.85, 1.0, 1.2, 1.45)
"""Budgets of the baseline, as multiples of the common one; the common one is among them."""
FURTHER = (0.1, 0.125, 0.18, 0.25, 0.35, 0.5, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0)
"""Those that are added on the way to a further one: the spacing stays that of a factor of 1.4."""
SCHEDULE = ("tokens", "max_steps", "max_tokens", "warmup_steps")
"""What runs of several budgets may differ in; their batches, of which there are fewer or more, are the fifth."""


@dataclass(frozen=True)
class BudgetRow:
    """The baseline's runs at one budget, `factor` times the common one; no row where none is on record."""

    factor: float
    row: Row | None


@dataclass(frozen=True)
class Equivalent:
    """What a row's loss is worth, in training tokens of the baseline.

    Attributes:
        label: of the row.
        ratio: tokens with which the baseline reaches the row's mean loss over the tokens of the runs; None where that
            cannot be said.
        low: lower end of the 95% interval, joint with the other rows; None where there is none.
        high: upper end of it.
        seeds: pairs of runs with the baseline's; unpaired, the runs of the side that has fewer.
        method: how the row's runs belong to the baseline's.
        why: why there is no ratio, or an end is missing, in words; empty where nothing is missing.
        add: how far `--equivalent-to` would have to go; None where more budgets do not help.
    """

    label: str
    ratio: float | None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    method: Method = "single"
    why: str = ""
    add: float | None = None


@dataclass(frozen=True)
class Equivalents:
    """The answer for all rows.

    Attributes:
        axis: what was asked for: the tokens, or FLOPs or seconds that follow from them.
        budgets: the baseline's, rising.
        rows: of every row but the baseline, in their order.
        audit: of the budgets against each other, leaving out what follows from their length.
        misfit: how far budgets lie off the fitted curve at most, as a share of the budget; None without a curve.
        bend_p: p-value of a curve of that shape; None where there are too few seeds to tell.
        family: rows over which the intervals hold jointly.
        missing: runs of the baseline's other budgets that are not on record.
    """

    axis: Worth
    budgets: tuple[BudgetRow, ...]
    rows: tuple[Equivalent, ...]
    audit: Audit
    misfit: float | None = None
    bend_p: float | None = None
    family: int = 0
    missing: tuple[PlannedRun, ...] = ()

    @property
    def runs(self) -> tuple[RunInfo, ...]:
        """The baseline's runs at the other budgets."""
        return tuple(run for one in self.budgets if one.factor != 1 and one.row for run in one.row.runs)

    def of(self, label: str) -> Equivalent | None:
        """Return what a row's loss is worth; None for the baseline."""
        return next((one for one in self.rows if one.label == label), None)


@dataclass(frozen=True)
class _Side:
    """A row against the curve through the runs that it is compared with."""

    curve: BudgetCurve
    logs: np.ndarray
    seeds: tuple[str, ...]
    method: Method
    place: Place
    evaluation: EvaluationPart | None = None

    @property
    def pairs(self) -> int:
        """Pairs of runs; unpaired, the runs of the side that has fewer."""
        return min(len(self.logs), len(self.curve.logs))


@dataclass(frozen=True)
class Inquiry:
    """A question that is ready to be answered once it is known how many rows the family has.

    Attributes:
        axis, budgets, audit: as in `Equivalents`.
        sides: what can be placed on the curve, by label.
        refused: why the others cannot, by label.
        order: labels of all rows but the baseline.
    """

    axis: Worth
    budgets: tuple[BudgetRow, ...]
    audit: Audit
    sides: dict[str, _Side] = field(default_factory=dict[str, _Side])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    order: tuple[str, ...] = ()

    @property
    def members(self) -> list[str]:
        """Labels of the rows that get an interval."""
        return [name for name, one in self.sides.items() if one.place.x is not None and one.pairs >= LEAST_SEEDS]

    def answer(self, family: int) -> Equivalents:
        """Return what the rows are worth, with intervals that hold jointly over `family` rows."""
        ends: dict[str, Ends] = {}
        blocks: dict[object, list[str]] = {}
        for label in self.members:
            one = self.sides[label]
            blocks.setdefault(one.seeds if one.method == "paired" else label, []).append(label)
        for labels in blocks.values():
            own = [self.sides[label] for label in labels]
            if own[0].method == "paired":
                logs = np.array([one.logs for one in own])
                parts = [one.evaluation for one in own]
                found = paired_ends(own[0].curve, logs, [one.place for one in own], family, parts)
            else:
                found = [unpaired_ends(own[0].curve, own[0].logs, own[0].place, family, own[0].evaluation)]
            ends |= dict(zip(labels, found, strict=True))
        rows = tuple(self._row(label, ends.get(label)) for label in self.order)
        curve = next((one.curve for one in self.sides.values()), None)
        if curve is None or max(curve.slopes(0.0)) >= 0:
            return Equivalents(self.axis, self.budgets, rows, self.audit, family=family)
        misfit = math.expm1(curve.misfit(0.0))
        return Equivalents(self.axis, self.budgets, rows, self.audit, misfit, curve.bend_p(0.0), family)

    def _row(self, label: str, ends: Ends | None) -> Equivalent:
        one = self.sides.get(label)
        if one is None:
            return Equivalent(label, None, why=self.refused[label])
        seeds = one.pairs
        if one.place.x is None:
            add, why = _beyond(one.curve, float(one.logs.mean()), one.place)
            return Equivalent(label, None, None, None, seeds, one.method, why, add)
        ratio = math.exp(one.place.x)
        if ends is None:
            return Equivalent(label, ratio, None, None, seeds, one.method, f"n={seeds}: no interval")
        low, high = (None if end is None else math.exp(end) for end in (ends.low, ends.high))
        smallest, largest = one.curve.budgets[0], one.curve.budgets[-1]
        open_ends = [f"below {smallest:g}x"] * (low is None) + [f"above {largest:g}x"] * (high is None)
        add = None if not open_ends else _next(smallest, -1) if low is None else _next(largest, 1)
        why = f"the interval ends {' and '.join(open_ends)}: add {_flag(add)}" if open_ends else ""
        return Equivalent(label, ratio, low, high, seeds, one.method, why, add)


def inquire(
    axis: Worth,
    rows: Sequence[Row],
    audited: Audit,
    budgets: Sequence[BudgetRow],
    *,
    windows: Windows | None = None,
    recorded: Sequence[RunInfo] = (),
    force: bool = False,
) -> Inquiry:
    """Place the rows of a comparison on the curve of the baseline's budgets, as far as that may be done.

    Args:
        axis: what is asked for.
        rows: of the comparison, the baseline first.
        audited: its audit; a row whose conditions are not the baseline's is not placed.
        budgets: the baseline's, rising.
        windows: finds the losses per window of a run, for the noise of evaluation.
        recorded: all runs on record.
        force: place rows across unequal conditions too.
    """
    at_budgets = [replace(one.row, label=f"{one.factor:g}x") for one in budgets if one.row is not None]
    found = _without_batches(audit(at_budgets, tuned=SCHEDULE, recorded=recorded))
    whole = _incomplete(budgets) or ("" if force or found.equal else _unequal(found))
    sides: dict[str, _Side] = {}
    refused: dict[str, str] = {}
    for row in rows[1:]:
        unequal = not force and (row.label in audited.flagged or rows[0].label in audited.flagged)
        if why := (f"{gone}: no verdict" if (gone := lost(row)) else UNEQUAL if unequal else whole):
            refused[row.label] = why
        else:
            sides[row.label] = _side(row, [one for one in budgets if one.row is not None], windows)
    return Inquiry(axis, tuple(budgets), found, sides, refused, tuple(row.label for row in rows[1:]))


def _without_batches(found: Audit) -> Audit:
    """Leave out that the batches differ, of which there are as many as steps."""
    kept = tuple(one for one in found.differences if one.name != "batches")
    names = {label: tuple(name for name in own if name != "batches") for label, own in found.flagged.items()}
    return replace(found, differences=kept, flagged={label: own for label, own in names.items() if own})


def _incomplete(budgets: Sequence[BudgetRow]) -> str:
    """Say which budgets lack runs or lost some; empty where none does."""
    absent = [
        f"{one.factor:g}x" if one.row is None else f"{one.factor:g}x ({lost(one.row) or 'seeds missing'})"
        for one in budgets
        if one.row is None or lost(one.row) or len(one.row.runs) < one.row.wanted
    ]
    if absent:
        return f"the baseline is not complete at {', '.join(absent)} its budget"
    return "" if len(budgets) >= LEAST_BUDGETS else f"{LEAST_BUDGETS} budgets of the baseline are needed"


def _unequal(found: Audit) -> str:
    return f"the baseline's budgets differ in {', '.join(one.name for one in found.differences)}: no verdict"


def _side(row: Row, budgets: Sequence[BudgetRow], windows: Windows | None) -> _Side:
    by_budget = [{run.seed: run for run in one.row.runs} for one in budgets if one.row is not None]
    own = {run.seed: run for run in row.runs}
    everywhere = [seed for seed in by_budget[0] if all(seed in found for found in by_budget)]
    shared = [seed for seed in own if seed in everywhere and seed != "?"]
    here, there, method = list(own), everywhere, "unpaired"
    if len(shared) > 1 or (shared and min(len(own), len(everywhere)) == 1):
        here, there, method = shared, shared, "paired" if len(shared) > 1 else "single"
    elif min(len(own), len(everywhere)) == 1:
        method = "single"
    runs = [[found[seed] for found in by_budget] for seed in there]
    curve = BudgetCurve(tuple(one.factor for one in budgets), np.array([[_log(run) for run in line] for line in runs]))
    logs = np.array([_log(own[seed]) for seed in here])
    evaluation = None if windows is None else _evaluation([own[seed] for seed in here], runs, windows, method)
    return _Side(curve, logs, tuple(here), method, place_of(curve, float(logs.mean())), evaluation)


def _log(run: RunInfo) -> float:
    return math.log(run.metrics[LOSS])


def _evaluation(
    here: Sequence[RunInfo], there: Sequence[Sequence[RunInfo]], windows: Windows, method: Method
) -> EvaluationPart | None:
    """Return what finds the noise of the evaluation in a row's difference to the curve; None without its losses.

    A loss per window over the run's mean loss is, to first order, what the window does to the logarithm of the mean.
    """
    first = windows(here[0])
    if first is None:
        return None
    texts = [[windows(run) for run in line] for line in (here, *there)]
    kinds = {(one.windows, len(one.losses)) if one is not None else None for line in texts for one in line}
    if kinds != {(first.windows, len(first.losses))}:
        return None
    own, *others = [np.array([_relative(one) for one in line if one is not None]) for line in texts]

    def part(weights: np.ndarray) -> tuple[float, float]:
        at_place = [np.tensordot(weights, line, 1) for line in others]
        found = evaluation_noise(list(own), at_place, first.documents, paired=method == "paired")
        return (0.0, 1.0) if found is None else (found.beyond_seeds**2, found.df)

    return part


def _relative(found: WindowLosses) -> np.ndarray:
    losses = np.array(found.losses)
    return losses / losses.mean()


def _beyond(curve: BudgetCurve, log_loss: float, place: Place) -> tuple[float | None, str]:
    """Say why a loss has no place on the curve, and how far the baseline's budgets would have to go."""
    if place.flat:
        return None, "the baseline's loss does not fall steadily over its budgets: more seeds would show how it does"
    edge = float(curve.places[-1 if place.beyond > 0 else 0])
    slope = curve.slopes(edge)[place.beyond > 0]
    gap = float(curve.fitted(edge).mean()) - log_loss
    estimate = edge + gap / -slope if slope < 0 else edge + 0.7 * place.beyond
    add = _next(math.exp(edge), place.beyond, math.exp(min(max(estimate, -1.4), 1.4)))
    side = "more" if place.beyond > 0 else "less"
    return add, f"{side} than {math.exp(edge):g}x; needs the baseline at {add:g}x: add {_flag(add)}"


def _next(edge: float, sign: int, estimate: float = 1.0) -> float:
    """Return the first further budget beyond the largest or smallest one that has room for the estimate."""
    beyond = [one for one in FURTHER if sign * math.log(one / edge) > 0.05] or [edge * 1.4**sign]
    beyond.sort(reverse=sign < 0)
    return next((one for one in beyond if sign * math.log(one / estimate) > 0.1), beyond[-1])


def _flag(add: float | None) -> str:
    return f"--equivalent-to {add:g}"
