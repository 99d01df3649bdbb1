"""Several differences between the same runs, judged together: which run each is between makes their joint law.

`vgpt.compare.statistics.pooled` knows rows against one baseline, whose differences rise and fall together. The steps
of a staircase do not: where one ends the next begins, so that neighbors err in opposite directions, and the whole errs
with each of them. The estimate of noise is the same, a variance of each difference that is moderated by the mean over
all; what the tests do jointly is simulated for the differences at hand.

Sources: as of `vgpt.compare.statistics.pooled`.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.pooled import DRAWS, pooled_variance
from vgpt.compare.statistics.seeds import ALPHA

Pairs = tuple[tuple[int, int], ...]
"""Differences between numbered rows: (row, the one it is compared with)."""

_NUMBERS_AT_ONCE = 2_000_000


def seed_noise(within: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return variance of the mean and degrees of freedom of each difference.

    Args:
        within: of every difference its values by seed, two seeds at least, the same ones in all; one difference alone
            gets Student's.
    """
    values = np.array(within)
    if len(values) == 1:
        return [(float(values[0].var(ddof=1)) / values.shape[1], values.shape[1] - 1.0)]
    variances, freedoms = pooled_variance(values)
    return list(zip(variances.tolist(), freedoms.tolist(), strict=True))


def half_width(noise: Noise, pairs: Pairs, seeds: int, windows_share: float = 0.0, weight: float = 1.0) -> float:
    """Return half the width of a difference's 95% interval; those of all `pairs` cover their differences in 95%.

    Args:
        noise: of the difference.
        pairs: all that are judged with it, itself included.
        seeds: that all of them share.
        windows_share: mean share of evaluation noise in their variances.
        weight: share of the 5% that is theirs, where they are judged beside others.
    """
    return noise.half_width(_level(ALPHA * weight, pairs, seeds, windows_share))


def adjusted_p(
    delta: float, noise: Noise, pairs: Pairs, seeds: int, windows_share: float = 0.0, weight: float = 1.0
) -> float:
    """Return the p-value of a difference, adjusted for all that are judged with it; see `half_width`."""
    return min(1.0, _joint_p(noise.p_value(delta), pairs, seeds, windows_share) / weight)


def _joint_p(p: float, pairs: Pairs, seeds: int, windows_share: float) -> float:
    """Return the chance that the smallest p of all differences is `p` or less where none of them is one."""
    if len(pairs) == 1:
        return p
    by_seeds = _share_below(_smallest_p(pairs, seeds), p)
    if windows_share == 0:
        return by_seeds
    return by_seeds + windows_share * max(0.0, _share_below(_smallest_p(pairs, 0), p) - by_seeds)


@lru_cache(maxsize=1024)
def _level(level: float, pairs: Pairs, seeds: int, windows_share: float) -> float:
    if len(pairs) == 1:
        return level
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _joint_p(middle, pairs, seeds, windows_share) < level else (low, middle)
    return low


def _share_below(smallest: np.ndarray, p: float) -> float:
    return (int(np.searchsorted(smallest, p, side="right")) + 1) / (len(smallest) + 1)


@lru_cache(maxsize=64)
def _smallest_p(pairs: Pairs, seeds: int) -> np.ndarray:
    """Return the sorted smallest p of all differences in simulated runs without any, of equal normal noise.

    With 0 seeds, those of normal differences of known variance. The draws are the same every time.
    """
    from scipy.special import ndtr, stdtr

    generator = np.random.default_rng(0)
    rows, columns = 1 + max(max(pair) for pair in pairs), max(1, seeds)
    here, there = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    at_once = max(1, _NUMBERS_AT_ONCE // ((rows + len(pairs)) * columns))
    found: list[np.ndarray] = []
    for done in range(0, DRAWS, at_once):
        runs = generator.standard_normal((min(at_once, DRAWS - done), rows, columns))
        differences = runs[:, here] - runs[:, there]
        if seeds:
            variance, df = pooled_variance(differences)
            p = 2 * stdtr(df, -np.abs(differences.mean(-1)) / np.sqrt(variance))
        else:
            p = 2 * ndtr(-np.abs(differences[..., 0]) / np.sqrt(2))
        found.append(p.min(-1))
    return np.sort(np.concatenate(found))
