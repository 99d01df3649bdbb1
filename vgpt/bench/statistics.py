"""What rounds of paired timings say: a median with its spread, and a ratio with an interval that can be relied on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

LEVEL = 0.95
FEWEST = 6
"""Rounds that an interval of 95% needs: of five, even all differences on one side happen by luck in 6%."""


@dataclass(frozen=True)
class Spread:
    """The median of figures, their quartiles, and the distance between these relative to the median."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Return that of one figure or more."""
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        low, _, high = quantiles(figures, n=4, method="inclusive")
        return cls(median(figures), low, high)

    @property
    def relative(self) -> float:
        """Distance between the quartiles over the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Ratio:
    """A ratio of two subjects' figures with its interval; both ends are None where the rounds are too few for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def shows(self) -> bool:
        """Whether the interval leaves out 1: a difference was found."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return ours over theirs, from figures of the same rounds: what both met in a round cancels.

    The ratio is the Hodges-Lehmann estimate from the rounds' log-ratios, the median of the means of all pairs of them.
    Its interval holds those values that Wilcoxon's signed-rank test does not reject: at least 95% for any noise that is
    as likely to favor one side as the other, whatever its shape; no normal distribution is assumed, and a few outliers
    move neither much. Source: Hodges and Lehmann 1963, Annals of Mathematical Statistics 34, section 4.
    """
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    means = sorted((a + b) / 2 for i, a in enumerate(logs) for b in logs[i:])
    cut = _critical(len(logs))
    if cut is None:
        return Ratio(math.exp(median(means)))
    return Ratio(math.exp(median(means)), math.exp(means[cut]), math.exp(means[-1 - cut]))


def _critical(n: int) -> int | None:
    """Return how many means of pairs the interval leaves out at each end; None where n rounds bear no interval.

    It is the largest c for which the sum of positive ranks is at most c - 1 with a chance of 2.5% at most, where all
    2^n patterns of signs are equally likely.
    """
    patterns = [1]  # patterns[w]: how many patterns have this sum of positive ranks
    for rank in range(1, n + 1):
        wider = patterns + [0] * rank
        for total, count in enumerate(patterns):
            wider[total + rank] += count
        patterns = wider
    allowed, below = (1 - LEVEL) / 2 * 2**n, 0
    for total, count in enumerate(patterns):
        below += count
        if below > allowed:
            return total - 1 if total else None
    return None
