"""Several variants against one baseline over the same seeds: a pooled estimate of noise, and tests that hold jointly.

Seeds are blocks, and all differences share the runs of the baseline. The variance of a row's differences is
moderated: a third of it is the mean over all rows, as if that were known from half as many degrees of freedom as the
row has of its own. The degrees of freedom follow Satterthwaite's rule, since the part that all rows share, the
baseline's noise, is known from the seeds alone. What this test does to several rows at once is no textbook
distribution: it is simulated, with normal noise that is equal in all rows, and the level of each row is set so that
all of them together err in 5% of comparisons, two-sided tests and one-sided ones each with a level of their own. One
row alone is no case for pooling: it gets Student's test.

Sources: moderation as in Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression";
joint level by the smallest p as in Westfall and Young 1993, "Resampling-based multiple testing", section 2.3; a common
baseline as in Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a control".
"""

# pyright: reportMissingTypeStubs=false

from functools import lru_cache

import numpy as np

POOLED_SHARE = 1 / 3
"""Weight of the mean over all rows in the variance of each: more is unsafe where one row is noisier than the others."""
DRAWS = 100_000
_NUMBERS_AT_ONCE = 2_000_000


def pooled_variance(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variance of the mean and degrees of freedom of each row.

    Args:
        differences: to the baseline, (..., rows, seeds), two rows and two seeds at least.

    Returns:
        Two arrays of shape (..., rows).
    """
    seeds = differences.shape[-1]
    own = differences.var(-1, ddof=1)
    mean = own.mean(-1, keepdims=True)
    shared = differences.mean(-2).var(-1, ddof=1)[..., None]
    part = np.divide(shared, mean, out=np.ones_like(mean), where=mean > 0)
    free = seeds - 1
    df = 1 / (part**2 / free + (1 - part) ** 2 * (1 - POOLED_SHARE) / free)
    return (POOLED_SHARE * mean + (1 - POOLED_SHARE) * own) / seeds, np.broadcast_to(df, own.shape)


def joint_p(p: float, rows: int, seeds: int, windows_share: float = 0.0, *, sides: int = 2) -> float:
    """Return the chance that the smallest p of all rows is `p` or less where no row differs from the baseline.

    Args:
        p: of one row alone, by the variance and freedom of `pooled_variance`.
        rows: how many are tested against the baseline.
        seeds: that all of them share.
        windows_share: share of evaluation noise in the variance. As it grows, the joint distribution goes from the
            simulated one to that of normal differences.
        sides: 2; or 1 for one-sided tests, each on whichever side: half of them on the one and half on the other is
            the worst case, since what the rows have in common cannot then err in all of them at once.
    """
    if rows == 1:
        return p
    by_seeds = _share_below(_smallest_p(rows, seeds, sides), p)
    if windows_share == 0:
        return by_seeds
    return by_seeds + windows_share * max(0.0, _share_below(_smallest_p(rows, 0, sides), p) - by_seeds)


@lru_cache(maxsize=4096)
def row_level(level: float, rows: int, seeds: int, windows_share: float = 0.0, *, sides: int = 2) -> float:
    """Return the p that each row must stay below for all of them together to err at most at a level."""
    if rows == 1:
        return level
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if joint_p(middle, rows, seeds, windows_share, sides=sides) < level:
            low = middle
        else:
            high = middle
    return low


def _share_below(smallest: np.ndarray, p: float) -> float:
    return (int(np.searchsorted(smallest, p, side="right")) + 1) / (len(smallest) + 1)


@lru_cache(maxsize=64)
def _smallest_p(rows: int, seeds: int, sides: int) -> np.ndarray:
    """Return the sorted smallest p of `rows` rows in simulated comparisons without any difference.

    With 0 seeds, those of normal differences of known variance. The draws are the same every time.
    """
    from scipy.special import ndtr, stdtr

    generator = np.random.default_rng(0)
    at_once = max(1, _NUMBERS_AT_ONCE // ((rows + 1) * max(1, seeds)))
    alternating = np.where(np.arange(rows) % 2, -1.0, 1.0)
    found: list[np.ndarray] = []
    for done in range(0, DRAWS, at_once):
        runs = generator.standard_normal((min(at_once, DRAWS - done), rows + 1, max(1, seeds)))
        differences = runs[:, 1:] - runs[:, :1]
        if seeds:
            variance, df = pooled_variance(differences)
            mean, error = differences.mean(-1), np.sqrt(variance)
        else:
            mean, error, df = differences[..., 0], np.sqrt(2), None
        far = mean / error * alternating if sides == 1 else np.abs(mean) / error
        p = sides * (ndtr(-far) if df is None else stdtr(df, -far))
        found.append(p.min(-1))
    return np.sort(np.concatenate(found))
