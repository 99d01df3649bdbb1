"""Loss curves: those of a row over tokens, training FLOPs or training time, and the band of its runs."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from vgpt.compare.metrics import FLOPS
from vgpt.compare.rows import Row
from vgpt.tracking.histories import History, Reading
from vgpt.tracking.run_info import RunInfo

Axis = Literal["tokens", "flops", "seconds"]
AXES: tuple[Axis, ...] = ("tokens", "flops", "seconds")

Histories = Callable[[RunInfo], History]


@dataclass(frozen=True)
class Curve:
    """A loss over an axis, of one run or the mean of several.

    Attributes:
        x: tokens, training FLOPs or seconds, rising.
        mean: nats per token.
        low: lowest of the runs.
        high: highest of the runs.
        runs: how many runs there are at every point.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: int


def position(run: RunInfo, reading: Reading, axis: Axis) -> float | None:
    """Return where on an axis a reading of a run stands; None where the record does not tell."""
    if axis == "seconds":
        return reading.seconds
    if axis == "tokens" or reading.tokens is None:
        return reading.tokens
    per_token = run.metrics.get(FLOPS)
    return None if per_token is None else reading.tokens * per_token


def curve(row: Row, histories: Histories, axis: Axis, *, training: bool = False) -> Curve | None:
    """Return the mean of a row's runs with the lowest and the highest; None where no run has a course.

    Runs that are not measured at the same points (training time never is the same) are read between two of their
    points by proportion, at the points of the first run and where the last of them begins and the first one ends.

    Args:
        row: the row.
        histories: finds the loss curves of a run.
        axis: what the loss is shown over.
        training: the loss of the training batches, in place of that on the evaluation windows.
    """
    lines = [line for run in row.runs if len(line := _line(run, histories(run), axis, training)) > 1]
    if not lines:
        return None
    first, last = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    if first > last:
        return None
    grid = sorted({first, *(x for x, _ in lines[0] if first < x < last), last})
    values = [[_between(line, x) for line in lines] for x in grid]
    return Curve(tuple(grid), tuple(map(fmean, values)), tuple(map(min, values)), tuple(map(max, values)), len(lines))


def _line(run: RunInfo, history: History, axis: Axis, training: bool) -> list[tuple[float, float]]:
    """Return (position, loss), the position rising."""
    line: list[tuple[float, float]] = []
    for reading in history.train if training else history.evaluations:
        x = position(run, reading, axis)
        if x is not None and (not line or x > line[-1][0]):
            line.append((x, reading.value))
    return line


def _between(line: Sequence[tuple[float, float]], x: float) -> float:
    after = bisect_left(line, x, key=lambda point: point[0])
    x1, y1 = line[after]
    if x1 == x:
        return y1
    x0, y0 = line[after - 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
