"""Statistics over seeds: t-intervals, paired and unpaired differences, and sign flips.

Everything here is about *seed noise*: how far a number would move if the runs were repeated with other seeds. The
noise of the evaluation itself is in `vgpt.compare.statistics.evaluation_noise`; a small one says nothing about the
other. How several rows are judged together is in `vgpt.compare.statistics.family`.
"""

# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""Two-sided level of every test; intervals cover 1 - ALPHA."""
POWER = 0.80
"""Chance to show a difference that is there, by which what a study can show is told."""
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
        error: standard error of the difference.
    """

    delta: float
    half_width: float
    p: float
    df: float
    error: float

    @property
    def bound(self) -> float:
        """How far from the difference a one-sided bound of the same level is."""
        return _critical(self.df, sides=1) * self.error


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
    p = _p_value(interval.mean, error, interval.n - 1)
    return TTest(interval.mean, interval.half_width, p, interval.n - 1, error)


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
    return TTest(delta, _critical(df) * error, _p_value(delta, error, df), df, error)


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


def _critical(df: float, sides: int = 2) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - ALPHA / sides))


def _p_value(delta: float, error: float, df: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if delta == 0 else 0.0
    return float(2 * stdtr(df, -abs(delta) / error))
