"""From tokens to what they cost: the FLOPs and the seconds of the baseline that a row's loss is worth."""

import math
from dataclasses import dataclass

from vgpt.bench.result import TRAIN
from vgpt.compare.comparison import Comparison
from vgpt.compare.equivalents import Equivalent
from vgpt.compare.metrics import FLOPS, stat
from vgpt.compare.rows import Row
from vgpt.settings.compare import Worth


@dataclass(frozen=True)
class Value:
    """How many times the row's own amount the baseline needs; `why` says what is missing where a number is None."""

    ratio: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""


def worth(comparison: Comparison, row: Row, one: Equivalent, axis: Worth) -> Value:
    """Return what a row is worth in tokens, FLOPs or seconds.

    Tokens are multiplied by how much cheaper one of the baseline is: by FLOPs per token, which are exact, or by
    training speeds that were measured side by side, undisturbed. The noise of speeds joins that of seeds: half widths
    of the two logarithms are added in squares, each side by itself.

    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach",
    equations 3 and 4, on the sum of two logarithms.
    """
    if axis == "tokens" or one.ratio is None:
        return Value(one.ratio, one.low, one.high, one.why)
    baseline = comparison.rows[0]
    if axis == "flops":
        here, there = stat(row, FLOPS), stat(baseline, FLOPS)
        if here is None or there is None or here.mean <= 0:
            return Value(None, why="FLOPs per token are not on record")
        factor = there.mean / here.mean
        low, high = (None if end is None else end * factor for end in (one.low, one.high))
        return Value(one.ratio * factor, low, high, one.why)
    return _seconds(comparison, row, one)


def _seconds(comparison: Comparison, row: Row, one: Equivalent) -> Value:
    speeds = comparison.speeds
    case = None if speeds is None else speeds.case(TRAIN)
    if speeds is None or case is None:
        return Value(None, why="speeds were not measured side by side: --run-missing measures them, without --no-bench")
    speedup = speeds.speedup(TRAIN, row, comparison.rows[0])
    if speedup is None:
        return Value(None, why=f"speeds were disturbed: {', '.join(case.disturbed)}; measure again on a quiet machine")
    if speedup.low is None or speedup.high is None:
        return Value(None, why="speeds were measured in too few rounds for an interval")
    assert one.ratio is not None  # the caller has looked
    ends: list[float | None] = []
    for sign, end, speed in ((-1, one.low, speedup.low), (1, one.high, speedup.high)):
        if end is None:
            ends.append(None)
            continue
        half = math.hypot(math.log(end / one.ratio), math.log(speed / speedup.value))
        ends.append(one.ratio * speedup.value * math.exp(sign * half))
    return Value(one.ratio * speedup.value, ends[0], ends[1], one.why)
