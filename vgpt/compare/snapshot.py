"""Runs at equal tokens, equal training FLOPs or equal training time: read between the evaluations around that point."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vgpt.compare.curves import Axis, Histories, position
from vgpt.compare.metrics import BITS, LOSS, LOSS_SE, PERPLEXITY
from vgpt.compare.rows import Row
from vgpt.errors import VgptError
from vgpt.formatting import format_count
from vgpt.settings.compare import ComparisonSettings
from vgpt.tracking.histories import History, Reading
from vgpt.tracking.run_info import RunInfo

UNEQUAL_POINTS = "unequal points: no verdict"
TOLERANCE = 0.01
"""How far apart, as a share of the amount, what stands for the point may lie in two rows that are ranked."""

_MOST_NAMED = 3
_SLACK = 1e-9
"""FLOPs are products of floats: a run that ends at the very point has reached it."""


@dataclass(frozen=True)
class SnapshotPoint:
    """The point at which runs are compared: so many tokens, training FLOPs or seconds of training."""

    axis: Axis
    amount: float

    @property
    def flag(self) -> str:
        """The option that asks for it."""
        return f"--at-{self.axis}"

    def __str__(self) -> str:
        return format_amount(self.amount, self.axis)


@dataclass(frozen=True)
class Snapshot:
    """What a run had at the point.

    Attributes:
        run: the run, with its metrics as of there.
        amount: where on the point's axis that is: at the point, or at the nearest evaluation where the run has
            none on one side of it.
        before: step of the last evaluation at or before the point; None where there is none.
        after: step of the first one at or after it; the same step where an evaluation lies on the point.
        step: optimizer steps before `amount`; a fraction between two evaluations, as all that follows is in proportion.
        tokens: tokens trained on; None where the record does not tell.
        flops: training FLOPs spent; likewise.
        seconds: training time; likewise.
    """

    run: RunInfo
    amount: float
    before: int | None
    after: int | None
    step: float
    tokens: float | None
    flops: float | None
    seconds: float | None


@dataclass(frozen=True)
class Snapshots:
    """What rows had at a point.

    Attributes:
        rows: with the losses of there; costs, speed and sizes stay those of whole runs.
        snapshots: by label, what each run of the row had.
        unequal: label of each row that has no verdict there -> why.
    """

    rows: list[Row]
    snapshots: dict[str, tuple[Snapshot, ...]]
    unequal: dict[str, str]


def snapshot_point_of(settings: ComparisonSettings) -> SnapshotPoint | None:
    """Return the point that was asked for."""
    asked: dict[Axis, float | None] = {
        "tokens": settings.at_tokens,
        "flops": settings.at_flops,
        "seconds": settings.at_seconds,
    }
    return next((SnapshotPoint(axis, amount) for axis, amount in asked.items() if amount is not None), None)


def take_snapshots(rows: Sequence[Row], target: SnapshotPoint, histories: Histories) -> Snapshots:
    """Return the rows, the baseline first, with the losses that their runs had at a point.

    Raises:
        VgptError: a run has no course on record, or no row at all can be read there.
    """
    axis = target.axis
    unknown = [run for row in rows for run in row.runs if not _places(run, axis, histories(run))]
    if unknown:
        raise VgptError(
            f"{target.flag}: no {axis} are on record along the course of {_named(unknown)}",
            "Only runs whose journal or MLflow metric history is within reach can be compared along the way.",
        )
    snapshots = {row.label: tuple(_snapshot(run, target, histories(run)) for run in row.runs) for row in rows}
    away = {row.label: _away(snapshots[row.label], target, histories) for row in rows}
    if all(away.values()):
        _refuse(rows, snapshots, target, histories)
    unequal: dict[str, str] = {}
    baseline = rows[0].label
    for row in rows:
        reason = away[row.label]
        if not reason and away[baseline]:
            reason = f"{rows[0].label}, the baseline, is not there"
        elif not reason and (apart := _apart([*snapshots[baseline], *snapshots[row.label]])) > TOLERANCE:
            reason = f"what stands for the point lies {apart:.1%} apart in it and in the baseline"
        if reason:
            unequal[row.label] = reason
    read = [replace(row, runs=tuple(one.run for one in snapshots[row.label])) for row in rows]
    return Snapshots(read, snapshots, unequal)


def format_amount(amount: float, axis: Axis) -> str:
    """Return an amount with its unit: `12.8k tokens`, `3.1T training FLOPs`, `12.4 s of training`."""
    if axis == "seconds":
        return f"{amount:.4g} s of training"
    return f"{format_count(amount)} {'tokens' if axis == 'tokens' else 'training FLOPs'}"


def _snapshot(run: RunInfo, target: SnapshotPoint, history: History) -> Snapshot:
    """Read a run at a point: the loss is taken to change in proportion to the logarithm of the amount."""
    places, point = _places(run, target.axis, history), target.amount
    before = [place for place in places if place[0] <= point * (1 + _SLACK)]
    after = [place for place in places if place[0] >= point * (1 - _SLACK)]
    if not before or not after:
        x, one = before[-1] if before else after[0]
        (x0, first), (x1, second), amount = (x, one), (x, one), x
    else:
        (x0, first), (x1, second), amount = before[-1], after[0], point
    share = (amount - x0) / (x1 - x0) if x1 > x0 * (1 + _SLACK) else 0.0
    weight = math.log(amount / x0) / math.log(x1 / x0) if share else 0.0
    loss = _between(first.value, second.value, weight)
    metrics = {**run.metrics, LOSS: loss, PERPLEXITY: math.exp(min(loss, 700.0))}
    for name in (LOSS_SE, BITS):
        metrics.pop(name, None)  # the final one is another evaluation's
        ends = history.at(name, first.step), history.at(name, second.step)
        if ends[0] is not None and ends[1] is not None:
            metrics[name] = _between(ends[0], ends[1], weight)

    def along(axis: Axis) -> float | None:
        low, high = position(run, first, axis), position(run, second, axis)
        return None if low is None or high is None else _between(low, high, share)

    return Snapshot(
        run=replace(run, metrics=metrics),
        amount=amount,
        before=first.step if before else None,
        after=second.step if after else None,
        step=_between(first.step, second.step, share),
        tokens=along("tokens"),
        flops=along("flops"),
        seconds=along("seconds"),
    )


def _between(low: float, high: float, weight: float) -> float:
    return low + weight * (high - low)


def _away(snapshots: Sequence[Snapshot], target: SnapshotPoint, histories: Histories) -> str:
    """Say why a row's runs cannot be read at the point, nor near enough; empty where they can."""
    axis, reasons = target.axis, list[str]()
    for one in snapshots:
        if abs(math.log(one.amount / target.amount)) <= TOLERANCE:
            continue
        name, at = one.run.run_name, format_amount(one.amount, axis)
        end = _end(one.run, axis, histories)
        if one.before is None:
            interval = math.floor(one.step * target.amount / one.amount)
            remedy = f"; --eval-interval {interval} evaluates a run by then" if interval else ""
            reasons.append(f"{name} was first evaluated at {at}{remedy}")
        elif end * (1 + _SLACK) < target.amount:
            reasons.append(f"{name} ended at {format_amount(end, axis)}, last evaluated at {at}")
        else:
            reasons.append(f"{name} was last evaluated at {at}; a smaller --eval-interval evaluates a run nearer to it")
    return _listed(reasons)


def _apart(snapshots: Iterable[Snapshot]) -> float:
    amounts = [one.amount for one in snapshots]
    return math.log(max(amounts) / min(amounts))


def _refuse(
    rows: Sequence[Row],
    snapshots: dict[str, tuple[Snapshot, ...]],
    target: SnapshotPoint,
    histories: Histories,
) -> None:
    """Refuse a point at which there is nothing to rank, with the nearest one that would do."""
    axis, runs = target.axis, [run for row in rows for run in row.runs]
    ends = {run.run_name: _end(run, axis, histories) for run in runs}
    short = {name: end for name, end in ends.items() if end * (1 + _SLACK) < target.amount}
    if short:
        raise VgptError(
            f"{target.flag}: runs of every row ended before {target}: "
            + _listed([f"{name} ended at {format_amount(end, axis)}" for name, end in short.items()]),
            f"All runs came as far as {target.flag} {_typed(min(ends.values()), axis)}.",
        )
    early = [one for found in snapshots.values() for one in found if one.before is None]
    first = max(_places(run, axis, histories(run))[0][0] for run in runs)
    raise VgptError(
        f"{target.flag}: {_named([one.run for one in early])} had not been evaluated yet at {target}",
        f"From {target.flag} {_typed(first, axis, up=True)} on every run has been; "
        "a smaller --eval-interval evaluates earlier.",
    )


def _places(run: RunInfo, axis: Axis, history: History) -> list[tuple[float, Reading]]:
    """Return the evaluations by where they stand; one before the first step has no place on a logarithmic axis."""
    return [(x, one) for one in history.evaluations if (x := position(run, one, axis)) is not None and x > 0]


def _end(run: RunInfo, axis: Axis, histories: Histories) -> float:
    """Return how far a run came."""
    history = histories(run)
    readings: list[Reading] = [*history.train[-1:], *history.evaluations[-1:]]
    return max((x for one in readings if (x := position(run, one, axis)) is not None), default=0.0)


def _typed(amount: float, axis: Axis, *, up: bool = False) -> str:
    """Return an amount as an option takes it, rounded to the safe side."""
    if axis == "tokens":
        return f"{amount:.0f}"
    unit = 10.0 ** (math.floor(math.log10(amount)) - 3) if amount > 0 else 1.0
    return f"{(math.ceil if up else math.floor)(amount / unit) * unit:.4g}"


def _named(runs: Sequence[RunInfo]) -> str:
    return _listed([run.run_name for run in runs])


def _listed(words: Sequence[str]) -> str:
    more = f"; and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return "; ".join(words[:_MOST_NAMED]) + more
