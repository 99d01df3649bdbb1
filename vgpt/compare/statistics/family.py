"""All rows that get a verdict, judged together: intervals that hold jointly, and verdicts that are theirs.

Rows with the same seeds against one baseline are a block, whose joint distribution is known
(`vgpt.compare.statistics.pooled`).
Between blocks - rows with other seeds, and the parts of a study - the level is shared out by the number of rows
(Bonferroni), which holds whatever runs they have in common.
"""

# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vgpt.compare.statistics.pooled import joint_p, row_level
from vgpt.compare.statistics.seeds import ALPHA, POWER

_SMALLEST_LOG_P = -60.0


@dataclass(frozen=True)
class Noise:
    """The variance of a difference, in two independent parts.

    Attributes:
        seeds: from the seeds.
        df: its degrees of freedom.
        windows: from the text of the evaluation, as far as all seeds have it in common.
        windows_df: its degrees of freedom.
    """

    seeds: float
    df: float
    windows: float = 0.0
    windows_df: float = 1.0

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return math.sqrt(self.seeds + self.windows)

    @property
    def windows_share(self) -> float:
        """Share of the evaluation in the variance."""
        return self.windows / (self.seeds + self.windows) if self.windows else 0.0

    def half_width(self, p: float) -> float:
        """Return how large a difference has this two-sided p-value.

        Each part has the critical value of its own degrees of freedom, weighed by its variance. That errs on the safe
        side, where Satterthwaite's rule for the sum does not: from three seeds its level of 5% is 8% in truth.

        Source: Cochran and Cox 1950, "Experimental Designs", section 4.14.
        """
        from scipy.special import stdtrit

        if self.error == 0:
            return 0.0
        by_seeds = -float(stdtrit(self.df, p / 2)) * self.seeds
        by_windows = -float(stdtrit(self.windows_df, p / 2)) * self.windows if self.windows else 0.0
        return (by_seeds + by_windows) / self.error

    def p_value(self, delta: float) -> float:
        """Return the two-sided p-value of a difference: the p whose `half_width` it is."""
        from scipy.special import stdtr

        if self.error == 0:
            return 1.0 if delta == 0 else 0.0
        if not self.windows:
            return float(2 * stdtr(self.df, -abs(delta) / self.error))
        low, high = _SMALLEST_LOG_P, 0.0
        for _ in range(50):
            middle = (low + high) / 2
            if self.half_width(math.exp(middle)) > abs(delta):
                low = middle
            else:
                high = middle
        return math.exp(high)

    def detectable(self, half_width: float) -> float:
        """Return the true difference that a study with this noise would show with a chance of `POWER`."""
        from scipy.special import stdtrit

        return half_width + float(stdtrit(self.df, POWER)) * self.error


@dataclass(frozen=True)
class Block:
    """Rows that are tested together: how many, and over how many seeds; one alone for a test of its own."""

    rows: int
    seeds: int
    windows_share: float = 0.0


@dataclass(frozen=True)
class Judged:
    """A row's place in its family.

    Attributes:
        half_width: of the interval; the intervals of all rows of the family cover their differences in 95%.
        bound: how far from the difference its one-sided bounds are, the upper and the lower one: one of each row,
            whichever, all of them hold in 95%.
        p: adjusted for all rows of the family; below 5% where the interval leaves out zero.
        rows: of the family.
        noise: of the difference.
        block: the rows that it was tested with.
        detectable: the minimum detectable effect: the true difference that is shown with 80% power.
    """

    half_width: float
    bound: float
    p: float
    rows: int
    noise: Noise
    block: Block
    detectable: float


def judge(delta: float, noise: Noise, block: Block, rows: int, alpha: float = ALPHA) -> Judged:
    """Return what may be said of a difference among `rows` rows of a family, those of its block included.

    Args:
        delta: the difference.
        noise: of it.
        block: the rows that it is tested with.
        rows: of the family.
        alpha: level at which the family errs: smaller where the same rows are looked at several times.
    """
    weight = block.rows / rows
    shape = (alpha * weight, block.rows, block.seeds, block.windows_share)
    half = noise.half_width(row_level(*shape))
    bound = min(half, noise.half_width(2 * row_level(*shape, sides=1)))
    adjusted = min(1.0, joint_p(noise.p_value(delta), block.rows, block.seeds, block.windows_share) / weight)
    return Judged(half, bound, adjusted, rows, noise, block, noise.detectable(half))


def again(delta: float, found: Judged, rows: int, alpha: float = ALPHA) -> Judged:
    """Return the same among another number of rows, or at another level."""
    return judge(delta, found.noise, found.block, rows, alpha)


def block_of(noises: Sequence[Noise], seeds: int) -> Block:
    """Return the block of rows with these noises."""
    share = sum(noise.windows_share for noise in noises) / len(noises)
    return Block(len(noises), seeds, round(share, 3))
