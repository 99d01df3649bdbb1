"""Learning rates that variants were tuned over: the grid, and what came of it for each."""

from collections.abc import Mapping
from dataclasses import dataclass

from vgpt.compare.rows import Row

TUNED = ("lr", "min_lr")
"""Settings that the choice of a rate sets; what else differs is unequal as ever."""

TUNING_SEEDS = 1000
"""How far the first tuning seed is from the first reported one: as many as can be reported, so that none is both."""


@dataclass(frozen=True)
class Tuned:
    """The rates of one variant.

    Attributes:
        label: the variant with its settings.
        tuning: mean loss of the tuning seeds by rate; infinite where a run diverged; None where runs are missing.
        chosen: the rate with the lowest of them; None while one is missing, or where all diverged.
        at_chosen: mean loss of the reported seeds at that rate.
        at_common: the same at the common rate.
        edge: "lowest" or "highest" where the chosen rate is the grid's; a better one may lie beyond.
        later: the fewest and the most runs that its second stage may take; both 0 once its rate is chosen, since they
            are then among the missing.
    """

    label: str
    tuning: Mapping[float, float | None]
    chosen: float | None
    at_chosen: float | None
    at_common: float | None
    edge: str = ""
    later: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LearningRateSweep:
    """The grid, lowest rate first, the rate that the others are multiples of, and what came of it.

    Attributes:
        rates: the grid.
        common: the rate in its middle.
        variants: the rates of each.
        rows: those of all rates, of both stages.
        tuning_seeds: the seeds that chose.
    """

    rates: tuple[float, ...]
    common: float
    variants: tuple[Tuned, ...]
    rows: tuple[Row, ...]
    tuning_seeds: tuple[str, ...] = ()

    @property
    def later(self) -> tuple[int, int]:
        """The fewest and the most runs of the second stage that the first has not chosen yet."""
        return sum(one.later[0] for one in self.variants), sum(one.later[1] for one in self.variants)


def grid(lr: float, number: int) -> tuple[float, ...]:
    """Return `number` rates, an odd one, each twice the one before, with `lr` in their middle."""
    return tuple(lr * 2.0**power for power in range(-(number // 2), number // 2 + 1))
