"""Statistics over seeds: t-intervals, paired and unpaired differences, sign flips, Holm, and how many seeds are needed.

Everything here is about *seed noise*: how far a number would move if the runs were repeated with other seeds. The
noise of the evaluation itself is in `vgpt.report.bootstrap`; a small one says nothing about the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""Two-sided level of every test; intervals cover 1 - ALPHA."""
POWER = 0.80
"""Chance to show a difference that is there, which `seeds_needed` asks for."""
MOST_SEEDS = 10_000
"""Above this `seeds_needed` stops counting."""
EXACT_FLIPS = 20
"""Up to this many pairs all sign flips are counted; above, `DRAWN_FLIPS` of them are drawn."""
DRAWN_FLIPS = 100_000


@dataclass(frozen=True)
class Interval:
    """A mean and its interval: mean - half_width to mean + half_width, from `n` values with standard deviation `sd`."""

    mean: float
    half_width: float
    sd: float
    n: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width


@dataclass(frozen=True)
class TTest:
    """A difference of means with its t-interval and p-value.

    Attributes:
        delta: the difference.
        half_width: half the width of its interval.
        p: two-sided p-value of no difference.
        df: degrees of freedom; Welch's are not whole.
    """

    delta: float
    half_width: float
    p: float
    df: float


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the mean with its t-interval; None from fewer than two values, which tell nothing of their noise."""
    if len(values) < 2:
        return None
    mean, sd, n = float(np.mean(values)), float(np.std(values, ddof=1)), len(values)
    return Interval(mean, _critical(n - 1) * sd / math.sqrt(n), sd, n)


def paired_t(differences: Sequence[float]) -> TTest | None:
    """Test whether the mean of differences within pairs is zero (Student's t); None from fewer than two pairs."""
    interval = mean_interval(differences)
    if interval is None:
        return None
    error = interval.sd / math.sqrt(interval.n)
    return TTest(interval.mean, interval.half_width, _p_value(interval.mean, error, interval.n - 1), interval.n - 1)


def welch_t(values: Sequence[float], baseline: Sequence[float]) -> TTest | None:
    """Test the difference of two means whose runs share no seeds, by Welch's t; None where a side has fewer than two.

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are
    involved"; degrees of freedom as in Satterthwaite 1946.
    """
    if min(len(values), len(baseline)) < 2:
        return None
    delta = float(np.mean(values)) - float(np.mean(baseline))
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (values, baseline)]
    total = sum(parts)
    if total == 0:
        df = float(len(values) + len(baseline) - 2)
    else:
        df = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (values, baseline), strict=True))
    error = math.sqrt(total)
    return TTest(delta, _critical(df) * error, _p_value(delta, error, df), df)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the sign-flip permutation test on differences within pairs.

    Without any assumption about their distribution but symmetry: the share of all sign patterns whose sum is at least
    as far from zero as the observed one. From n pairs it cannot be below 2 / 2^n. None from fewer than two pairs.

    Source: Fisher 1935, "The Design of Experiments", section 21.
    """
    count = len(differences)
    if count < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    # Sums of the same numbers in another order differ in their last bits: such ties count as ties.
    observed = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    if count <= EXACT_FLIPS:
        sums = values[:1]  # The first sign stays: the other half of the patterns are mirror images.
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= observed).mean())
    signs = np.random.default_rng(0).integers(0, 2, size=(DRAWN_FLIPS, count), dtype=np.int8) * 2 - 1
    hits = int((np.abs(signs @ values) >= observed).sum())
    return (hits + 1) / (DRAWN_FLIPS + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for their number, so that all of them together err at most at their level.

    None stands where there is no test, and is not counted.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def seeds_needed(delta: float, sd: float) -> int | None:
    """Return the pairs of runs with which a paired t-test would show a difference with a chance of `POWER`.

    Args:
        delta: the difference, taken as the true one.
        sd: standard deviation of the differences within pairs, taken as the true one.

    Returns:
        The smallest number, at least 2; None where it exceeds `MOST_SEEDS` or the difference is zero.

    Source: power of the t-test by the noncentral t distribution, as in Cohen 1988, "Statistical Power Analysis for
    the Behavioral Sciences", chapter 2.
    """
    if delta == 0 or not math.isfinite(delta) or not math.isfinite(sd):
        return None
    if sd == 0:
        return 2
    effect = abs(delta) / sd
    if _power(effect, MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        if _power(effect, middle) < POWER:
            low = middle
        else:
            high = middle
    return high


def _power(effect: float, pairs: int) -> float:
    from scipy.special import nctdtr  # a quarter of a second to import: not for `vgpt --help`

    df, shift = pairs - 1, effect * math.sqrt(pairs)
    if shift > 37:  # beyond the reach of float64
        return 1.0
    critical = _critical(df)
    missed, wrong_sign = (float(np.nan_to_num(nctdtr(df, shift, edge))) for edge in (critical, -critical))
    return 1 - missed + wrong_sign  # scipy answers NaN instead of numbers below 1e-15


def _critical(df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - ALPHA / 2))


def _p_value(delta: float, error: float, df: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if delta == 0 else 0.0
    return float(2 * stdtr(df, -abs(delta) / error))
