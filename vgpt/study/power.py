"""How many seeds a new study takes to show a difference, from runs on record that serve as its pilot.

The pilot says how noisy differences are, not how large they are: the difference to be shown is what its reader would
care about. Runs of the pilot are not counted in, for to add seeds until something shows errs far more often than in 5%.
"""

# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import LEAST_SEEDS, LossDifference
from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.seeds import ALPHA, POWER
from vgpt.tracking.schema import Metric

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
        no_worse: seeds per variant to show "no worse than the margin" of a variant that is equal to the baseline, if
            `sd` is true; None without a margin, or where no number is enough.
        no_worse_at_limit: likewise, if `sd_limit` is true.
        seconds: training time of one seed of the row and of the baseline, both runs together; None where not recorded.
    """

    row: Row
    sd: float
    sd_limit: float
    seeds: int | None
    seeds_at_limit: int | None
    no_worse: int | None = None
    no_worse_at_limit: int | None = None
    seconds: float | None = None

    def time(self, seeds: int | None) -> float | None:
        """Return how long so many seeds of the row and the baseline take, seconds; None where that is unknown."""
        return None if seeds is None or self.seconds is None else seeds * self.seconds


def needs(comparison: Comparison, delta: float) -> list[Need | None]:
    """Return what each row but the baseline says of a new study like this one, None where it is no pilot.

    A row is one if it shares two seeds with the baseline and lost none.
    """
    found = [one.difference for one in comparison.statistics[1:]]
    known = [_need(row, one, delta, len(found)) for row, one in zip(comparison.rows[1:], found, strict=True)]
    return [one and replace(one, seconds=_seconds(one.row, comparison.rows[0])) for one in known]


def seeds_for_margin(
    margin: float, sd: float, *, alpha: float = ALPHA, windows: float = 0.0, windows_df: float = 1.0
) -> int | None:
    """Return the pairs with which a variant that is equal to the baseline is shown to be no worse than a margin.

    Its chance is `POWER`, by the one-sided test at `alpha`: the upper bound must fall below the margin.

    Args:
        margin: nats per token, above zero.
        sd: standard deviation of the differences within pairs, taken as the true one.
        alpha: level of the test, one-sided.
        windows: variance by the text of the evaluation, which more seeds do not lower.
        windows_df: its degrees of freedom.

    Returns:
        The smallest number, at least 2; None where it exceeds `MOST_SEEDS`.

    Source: power of the one-sided t-test by the noncentral t distribution, as in Julious 2004, "Sample sizes for
    clinical trials with normal data", section 4.
    """
    if not 0 < margin < math.inf or not math.isfinite(sd):
        return None

    def enough(pairs: int) -> bool:
        return _power(margin, Noise(sd**2 / pairs, pairs - 1, windows, windows_df), 2 * alpha, sides=1) >= POWER

    return _smallest(enough)


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

    return _smallest(enough)


def _smallest(enough: Callable[[int], bool]) -> int | None:
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
    shape: dict[str, float] = {"alpha": ALPHA / rows, "windows": windows[0], "windows_df": windows[1]}
    found = [seeds_needed(delta, spread, **shape) for spread in (sd, limit)]
    found += [seeds_for_margin(one.margin.nats, spread, **shape) if one.margin else None for spread in (sd, limit)]
    return Need(row, sd, limit, *(None if number is None else max(LEAST_SEEDS, number) for number in found))


def _seconds(row: Row, baseline: Row) -> float | None:
    """Return the training time of one seed of a row and of the baseline: medians over their runs."""
    times = [
        [seconds for run in one.runs if (seconds := run.metrics.get(Metric.TRAIN_SECONDS, math.nan)) > 0]
        for one in (row, baseline)
    ]
    return sum(map(median, times)) if all(times) else None


def _power(delta: float, noise: Noise, alpha: float, sides: int = 2) -> float:
    from scipy.special import nctdtr  # a quarter of a second to import: not for `vgpt --help`

    if noise.error == 0:
        return 1.0
    shift, critical = abs(delta) / noise.error, noise.half_width(alpha) / noise.error
    if shift > 37:  # beyond the reach of float64
        return 1.0 if shift > critical else 0.0
    missed, wrong_sign = (float(np.nan_to_num(nctdtr(noise.df, shift, edge))) for edge in (critical, -critical))
    return 1 - missed + (wrong_sign if sides == 2 else 0.0)  # scipy answers NaN instead of numbers below 1e-15
