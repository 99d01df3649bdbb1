"""Intervals and verdicts of a comparison that is looked at after each seed: together they err in 5%, over all looks.

Who adds seeds until something shows errs far more often than one time in twenty. A plan of seeds has looks, at 3, 4,
... seeds up to a limit that is fixed beforehand. The level of 5% is spent over them, 5% (n / limit)^1.5 by the look at
n seeds, and the level of each look follows from the joint distribution of the t-statistics of all looks. That is free
of the unknown variance: it is that of standard normal noise, simulated with the pooled variance that the tables use,
for as many rows as are tested together. The intervals hold at all looks at once, so that whatever rule ends the plan,
and whatever the margin is, no more than 5% of plans end with a false claim.

Why this spending: of a mean of unknown variance O'Brien and Fleming's spends next to nothing on looks at few seeds,
where t must then be beyond 50, and a constant level, as in Pocock, shows the least at the limit. The power of 1.5 takes
fewer seeds than the former and shows more than the latter. Confidence sequences hold for any number of looks, and of
12 seeds use 2 of their 5%: they took more seeds at differences that are hard to show.
`benchmarks/sequential_rates.py` simulates all of them.

Sources: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; spending by powers as in Kim and
DeMets 1987, "Design and analysis of group sequential tests based on the type I error spending rate function"; intervals
as in Jennison and Turnbull 1989, "Interim analyses: the repeated confidence interval approach"; confidence sequences
as in Wang and Ramdas 2023, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance".
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vgpt.compare.statistics.differences import LEAST_SEEDS, LossDifference, RowStatistics, rejudged
from vgpt.compare.statistics.family import Judged, again
from vgpt.compare.statistics.pooled import pooled_variance
from vgpt.compare.statistics.seeds import ALPHA, Interval
from vgpt.formatting import counted

MOST_SEEDS = 12
"""The limit of a plan that names none."""
SPENDING_POWER = 1.5
DRAWS = 100_000
_DRAWS_OF_SEVERAL = 40_000
_NUMBERS_AT_ONCE = 2_000_000
_LEVELS = (0.005, 0.01, 0.02, ALPHA, 0.1, 0.2, 0.4, 0.7)
"""Levels of a whole plan at which p-values are read, in between by straight lines."""


@dataclass(frozen=True)
class SeedRule:
    """How seeds are added: one to every row at a time, until all are decided or the limit is reached.

    Attributes:
        most: seeds per row at the last look.
        rows: of the family that was planned; the level is shared out among no fewer.
    """

    most: int
    rows: int

    @property
    def looks(self) -> int:
        """How often it looks at most."""
        return self.most - LEAST_SEEDS + 1


@dataclass(frozen=True)
class Sequential:
    """Where a comparison stands in the plan of seeds that its runs were gathered by.

    Attributes:
        rule: of the plan.
        seeds: pairs of the row that has the most of them.
        margin: what the plan was to decide against, as typed; None for zero.
        seeds_before: seeds of all rows that were on record when the plan was made.
    """

    rule: SeedRule
    seeds: int
    margin: str | None = None
    seeds_before: int = 0

    @property
    def look(self) -> int:
        """Which look it is, the first being 1; 0 before it; never above the last."""
        return min(look_at(self.seeds), self.rule.looks)

    @property
    def sentence(self) -> str:
        """What a reader must know of the intervals."""
        where = f"look {self.look} of at most {self.rule.looks}" if self.look else "before the first look"
        seeds = counted(self.seeds_before, "seed")
        before = f"; {seeds} on record when the plan was made" if self.seeds_before else ""
        return (
            f"Sequential, {where} ({self.seeds} of at most {self.rule.most} seeds): seeds were added until all was "
            f"decided against {f'a margin of {self.margin}' if self.margin else 'zero'}; intervals and bounds hold at "
            f"all looks together{before}"
        )


def look_at(seeds: int) -> int:
    """Return which look is that at so many seeds, the first being 1; 0 before it."""
    return max(0, seeds - LEAST_SEEDS + 1)


def spent(level: float, most: int) -> np.ndarray:
    """Return how much of a level is spent by each look, (looks,); all of it by the last."""
    seeds = np.arange(LEAST_SEEDS, most + 1)
    return level * (seeds / most) ** SPENDING_POWER


@lru_cache(maxsize=512)
def look_levels(level: float, most: int, rows: int) -> tuple[float, ...]:
    """Return the level of each look with which all looks together err at `level`, the first at 3 seeds.

    Args:
        level: of all looks and all rows of a block together, two-sided.
        most: seeds at the last look.
        rows: that are tested together against one baseline.
    """
    return levels_of(smallest_p(rows, most), spent(level, most))


def levels_of(p: np.ndarray, spending: np.ndarray) -> tuple[float, ...]:
    """Return how often each look would err by itself where all looks spend their level as planned.

    Args:
        p: smallest p of simulated comparisons without a difference, (draws, looks).
        spending: level that is spent by each look, (looks,).
    """
    alive, used, found = np.ones(len(p), dtype=bool), 0, list[float]()
    for look, level in enumerate(spending):
        own, going_on = p[:, look], p[alive, look]
        wanted = int(level * len(p)) - used  # rounded down: the safe side
        edge = np.partition(going_on, wanted - 1)[wanted - 1] if wanted > 0 else -1.0
        ends = alive & (own <= edge)
        used += int(ends.sum())
        alive &= ~ends
        found.append(float((own <= edge).mean()))
    return tuple(found)


@lru_cache(maxsize=16)
def smallest_p(rows: int, most: int) -> np.ndarray:
    """Return the smallest p of `rows` rows at each look in simulated comparisons without any difference.

    Each p is that of the row alone, as the tables have it: by Student's test for a single row, by the pooled variance
    for several. The draws are the same every time.

    Returns:
        (draws, looks), at 3, 4, ... seeds.
    """
    from scipy.special import stdtr

    generator, looks = np.random.default_rng(0), range(LEAST_SEEDS, most + 1)
    draws = DRAWS if rows == 1 else _DRAWS_OF_SEVERAL
    at_once = max(1, _NUMBERS_AT_ONCE // ((rows + 1) * most))
    found: list[np.ndarray] = []
    for done in range(0, draws, at_once):
        runs = generator.standard_normal((min(at_once, draws - done), rows + 1, most))
        differences = runs[:, 1:] - runs[:, :1]
        p: list[np.ndarray] = []
        for seeds in looks:
            part = differences[..., :seeds]
            if rows == 1:
                variance, df = part.var(-1, ddof=1) / seeds, seeds - 1
            else:
                variance, df = pooled_variance(part)
            p.append((2 * stdtr(df, -np.abs(part.mean(-1)) / np.sqrt(variance))).min(-1))
        found.append(np.stack(p, axis=1))
    return np.concatenate(found)


def at_look(
    statistics: Sequence[RowStatistics], rule: SeedRule, total: int, covered: Collection[str]
) -> tuple[RowStatistics, ...]:
    """Return statistics whose intervals and verdicts are those of a look of a plan.

    Args:
        statistics: of the rows, the baseline first.
        rule: by which seeds were added.
        total: rows of the family that get a verdict.
        covered: labels of the rows whose seeds were added by the rule; the others keep intervals of a fixed number.
    """
    rows = max(total, rule.rows)

    def judge_again(label: str, one: LossDifference) -> Judged | None:
        return _judged(one, rule, rows) if label in covered else one.judged and again(one.delta, one.judged, total)

    found = rejudged(statistics, judge_again)
    ruled = {found[0].label, *covered} if covered else set[str]()
    pairs = zip(statistics, found, strict=True)
    return tuple(_in_plan(before, one, rule) if one.label in ruled else one for before, one in pairs)


def _judged(one: LossDifference, rule: SeedRule, rows: int) -> Judged | None:
    """Return the difference's place in the family at its look; None before the first look, and beyond the last."""
    if one.judged is None or not LEAST_SEEDS <= one.seeds <= rule.most:
        return None
    block, look = one.judged.block, look_at(one.seeds) - 1
    weight = block.rows / rows

    def level(whole: float) -> float:
        return look_levels(whole * weight, rule.most, block.rows)[look] / weight

    found = again(one.delta, one.judged, rows, level(ALPHA))
    return replace(found, p=_over_all_looks(found.p, level))


def _over_all_looks(p: float, level: Callable[[float], float]) -> float:
    """Return the level of the whole plan at which this look would just show a difference whose p at the look is `p`."""
    levels = [level(whole) for whole in _LEVELS]
    if p <= levels[0]:
        return _LEVELS[0] * p / levels[0] if levels[0] else 0.0
    return float(np.interp(p, [*levels, 1.0], [*_LEVELS, 1.0]))


def _in_plan(before: RowStatistics, found: RowStatistics, rule: SeedRule) -> RowStatistics:
    """Return a row without intervals of a fixed number of seeds: those of the look, or none where there is no look."""
    one, interval = found.difference, found.interval
    if one is not None and one.judged is None:
        had_one = before.difference is not None and before.difference.judged is not None
        beyond = f"n={one.seeds} is beyond the {rule.most} seeds of its plan: no verdict"
        one = replace(one, test=None, verdict=beyond if had_one else one.verdict)
    return replace(found, difference=one, interval=interval and _of_look(interval, rule))


def _of_look(interval: Interval, rule: SeedRule) -> Interval | None:
    """Return the interval of a mean that holds at all looks; None where there is no look at so many seeds."""
    from scipy.special import stdtrit

    if not LEAST_SEEDS <= interval.n <= rule.most:
        return None
    level = look_levels(ALPHA, rule.most, 1)[look_at(interval.n) - 1]
    critical = -float(stdtrit(interval.n - 1, level / 2))
    return replace(interval, half_width=critical * interval.sd / interval.n**0.5)
