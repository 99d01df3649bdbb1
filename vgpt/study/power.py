"""How many seeds a new study takes to show a difference, from runs on record that serve as its pilot.

The pilot says how noisy differences are, not how large they are: the difference to be shown is what its reader would
care about. Runs of the pilot are not counted in, for to add seeds until something shows errs far more often than in 5%.
"""

# pyright: reportMissingTypeStubs=false

import math
from dataclasses import dataclass

import numpy as np

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import LEAST_SEEDS, LossDifference
from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.seeds import ALPHA, POWER

MOST_SEEDS = 10_000
"""Above this `seeds_needed` stops counting."""
_LIMIT = 0.80
"""Confidence that the true spread is below its upper limit: a pilot of few seeds knows it badly."""


@dataclass(frozen=True)
class Need:
    """What a row's pilot says.

    Attributes:
        row: the row.
        sd: standard deviation of the differences within pairs.
        sd_limit: its upper limit at 80% confidence.
        seeds: per variant, if `sd` is true; None where no number of seeds is enough.
        seeds_at_limit: likewise, if `sd_limit` is true.
    """

    row: Row
    sd: float
    sd_limit: float
    seeds: int | None
    seeds_at_limit: int | None


def needs(comparison: Comparison, delta: float) -> list[Need | None]:
    """Return what each row but the baseline says of a new study like this one, None where it is no pilot.

    A row is one if it shares two seeds with the baseline and lost none.
    """
    found = [one.difference for one in comparison.statistics[1:]]
    return [_need(row, one, delta, len(found)) for row, one in zip(comparison.rows[1:], found, strict=True)]


def seeds_needed(
    delta: float, sd: float, *, alpha: float = ALPHA, windows: float = 0.0, windows_df: float = 1.0
) -> int | None:
    """Return the pairs of runs with which a paired test would show a difference with a chance of `POWER`.

    Args:
        delta: the difference, taken as the true one.
        sd: standard deviation of the differences within pairs, taken as the true one.
        alpha: level of the test, two-sided.
        windows: variance by the text of the evaluation, which more seeds do not lower.
        windows_df: its degrees of freedom.

    Returns:
        The smallest number, at least 2; None where it exceeds `MOST_SEEDS` or the difference is zero.

    Source: power of the t-test by the noncentral t distribution, as in Cohen 1988, "Statistical Power Analysis for
    the Behavioral Sciences", chapter 2.
    """
    if delta == 0 or not math.isfinite(delta) or not math.isfinite(sd):
        return None

    def enough(pairs: int) -> bool:
        return _power(delta, Noise(sd**2 / pairs, pairs - 1, windows, windows_df), alpha) >= POWER

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _need(row: Row, one: LossDifference | None, delta: float, rows: int) -> Need | None:
    from scipy.special import chdtri

    if one is None or one.method != "paired" or one.test is None or one.lost_seeds:
        return None
    variance, df = (one.judged.noise.seeds, one.judged.noise.df) if one.judged else (one.test.error**2, one.test.df)
    sd = math.sqrt(variance * one.seeds)
    limit = sd * math.sqrt(df / float(chdtri(df, _LIMIT)))
    windows = (one.noise.beyond_seeds**2, one.noise.df) if one.noise else (0.0, 1.0)
    found = [
        seeds_needed(delta, spread, alpha=ALPHA / rows, windows=windows[0], windows_df=windows[1])
        for spread in (sd, limit)
    ]
    seeds, at_limit = (None if number is None else max(LEAST_SEEDS, number) for number in found)
    return Need(row, sd, limit, seeds, at_limit)


def _power(delta: float, noise: Noise, alpha: float) -> float:
    from scipy.special import nctdtr  # a quarter of a second to import: not for `vgpt --help`

    if noise.error == 0:
        return 1.0
    shift, critical = abs(delta) / noise.error, noise.half_width(alpha) / noise.error
    if shift > 37:  # beyond the reach of float64
        return 1.0 if shift > critical else 0.0
    missed, wrong_sign = (float(np.nan_to_num(nctdtr(noise.df, shift, edge))) for edge in (critical, -critical))
    return 1 - missed + wrong_sign  # scipy answers NaN instead of numbers below 1e-15
