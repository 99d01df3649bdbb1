"""Runs at equal tokens, equal training FLOPs or equal training time: at the last evaluation that each had by then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgpt.errors import VgptError
from vgpt.report.curves import Axis, Histories, position
from vgpt.report.grouping import Row
from vgpt.report.numbers import BITS, LOSS, LOSS_SE, PERPLEXITY, shown_count
from vgpt.settings.compare import ComparisonSettings
from vgpt.tracking.histories import Reading
from vgpt.tracking.store import RunInfo

_MOST_NAMED = 3
_SLACK = 1e-9
"""FLOPs are products of floats: a run that ends at the very point has reached it."""


@dataclass(frozen=True)
class Milestone:
    """The point at which runs are compared: so many tokens, training FLOPs or seconds of training."""

    axis: Axis
    amount: float

    @property
    def flag(self) -> str:
        """The option that asks for it."""
        return f"--at-{self.axis}"

    def __str__(self) -> str:
        return shown_amount(self.amount, self.axis)


@dataclass(frozen=True)
class Standing:
    """What a run had at the milestone: its last evaluation by then.

    Attributes:
        run: the run, with its metrics as of that evaluation.
        step: optimizer steps before it.
        tokens: tokens trained on; None where the record does not tell.
        flops: training FLOPs spent; likewise.
        seconds: training time; likewise.
    """

    run: RunInfo
    step: int
    tokens: float | None
    flops: float | None
    seconds: float | None


def milestone_of(settings: ComparisonSettings) -> Milestone | None:
    """Return the point that was asked for."""
    asked: dict[Axis, float | None] = {
        "tokens": settings.at_tokens,
        "flops": settings.at_flops,
        "seconds": settings.at_seconds,
    }
    return next((Milestone(axis, amount) for axis, amount in asked.items() if amount is not None), None)


def at_milestone(
    rows: Sequence[Row], milestone: Milestone, histories: Histories
) -> tuple[list[Row], dict[str, tuple[Standing, ...]]]:
    """Return the rows with the losses that their runs had at a milestone, and by label what each run had there.

    Costs, speed and sizes stay those of the whole run.

    Raises:
        VgptError: a run has no course on record, never came that far, or had no evaluation by then.
    """
    reached = {
        (row.label, index): _standing(run, milestone, histories) for row in rows for index, run in enumerate(row.runs)
    }
    _refuse(rows, milestone, histories, reached)
    standings = {
        row.label: tuple(one for i in range(len(row.runs)) if (one := reached[row.label, i]) is not None)
        for row in rows
    }
    return [replace(row, runs=tuple(one.run for one in standings[row.label])) for row in rows], standings


def shown_amount(amount: float, axis: Axis) -> str:
    """Return an amount with its unit: `12.8k tokens`, `3.1T training FLOPs`, `12.4 s of training`."""
    if axis == "seconds":
        return f"{amount:.4g} s of training"
    return f"{shown_count(amount)} {'tokens' if axis == 'tokens' else 'training FLOPs'}"


def _standing(run: RunInfo, milestone: Milestone, histories: Histories) -> Standing | None:
    """Return what a run had; None where it had not come so far, or had no evaluation by then."""
    history, limit = histories(run), milestone.amount * (1 + _SLACK)
    if _end(run, milestone.axis, histories) * (1 + _SLACK) < milestone.amount:
        return None
    places = [(position(run, one, milestone.axis), one) for one in history.evaluations]
    passed = [one for x, one in places if x is not None and x <= limit]
    if not passed:
        return None
    last = passed[-1]
    metrics = {**run.metrics, LOSS: last.value, PERPLEXITY: math.exp(min(last.value, 700.0))}
    for name in (LOSS_SE, BITS):
        metrics.pop(name, None)
        if (value := history.at(name, last.step)) is not None:
            metrics[name] = value
    tokens, flops, seconds = (position(run, last, axis) for axis in ("tokens", "flops", "seconds"))
    return Standing(replace(run, metrics=metrics), last.step, tokens, flops, seconds)


def _refuse(
    rows: Sequence[Row],
    milestone: Milestone,
    histories: Histories,
    reached: dict[tuple[str, int], Standing | None],
) -> None:
    absent = [run for row in rows for i, run in enumerate(row.runs) if reached[row.label, i] is None]
    if not absent:
        return
    axis = milestone.axis
    unknown = [run for run in absent if not _positions(run, axis, histories)]
    if unknown:
        raise VgptError(
            f"{milestone.flag}: no {axis} are on record along the course of {_named(unknown)}",
            "Only runs whose journal or MLflow metric history is within reach can be compared along the way.",
        )
    short = [run for run in absent if _end(run, axis, histories) * (1 + _SLACK) < milestone.amount]
    if short:
        ends = [f"{run.run_name} ended at {shown_amount(_end(run, axis, histories), axis)}" for run in short]
        common = min(_end(run, axis, histories) for row in rows for run in row.runs)
        raise VgptError(
            f"{milestone.flag}: not all runs came as far as {milestone}: {_listed(ends)}",
            f"All runs came as far as {milestone.flag} {_typed(common, axis)}.",
        )
    first = max(_positions(run, axis, histories)[0] for run in absent)
    raise VgptError(
        f"{milestone.flag}: {_named(absent)} had not been evaluated yet at {milestone}",
        f"From {milestone.flag} {_typed(first, axis, up=True)} on every run has been; "
        "a smaller --eval-interval evaluates earlier.",
    )


def _positions(run: RunInfo, axis: Axis, histories: Histories) -> list[float]:
    return [x for one in histories(run).evaluations if (x := position(run, one, axis)) is not None]


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
