"""Whether variants come out in the same order at every rung: Kendall's tau-b between rungs, with its noise over seeds.

The interval is a bootstrap over seeds, drawn at each rung by itself and for all variants together, which share them. Of
n seeds n - 1 are drawn: the mean of so few varies as much between draws as the mean of all does between studies; with n
it would vary too little, by a third from three seeds.

Sources: Kendall 1945, "The treatment of ties in ranking problems" (tau-b); Rao and Wu 1988, "Resampling inference with
complex survey data" (n - 1 of n).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b of two orders, 1 for the same and -1 for the reverse; None where all of one side are equal.

    `low` and `high` are its 95% interval over seeds; None with fewer than two seeds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of the order of variants.

    Attributes:
        variants: how many are ordered.
        neighbors: names of two rungs that follow each other -> their agreement.
        overall: mean over all pairs of rungs.
    """

    variants: int
    neighbors: tuple[tuple[str, str, Tau], ...]
    overall: Tau


def rank_agreement(names: Sequence[str], losses: Sequence[np.ndarray]) -> Agreement | None:
    """Return how far the order of variants agrees between rungs; None from fewer than two rungs or variants.

    Args:
        names: of the rungs.
        losses: of each rung, (variants, seeds): the same variants in the same order, the same seeds within a rung.
    """
    if len(losses) < 2 or len(losses[0]) < 2:
        return None
    drawn = [_drawn_means(one, np.random.default_rng(number)) for number, one in enumerate(losses)]
    means = [one.mean(1)[None] for one in losses]
    enough = min(one.shape[1] for one in losses) > 1

    def told(pairs: Sequence[tuple[int, int]]) -> Tau:
        value = float(np.mean([tau_b(means[a], means[b]) for a, b in pairs]))
        if not enough:
            return Tau(_number(value))
        draws = np.mean([tau_b(drawn[a], drawn[b]) for a, b in pairs], 0)
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(draws).any() else (0, 0)
        return Tau(_number(value), float(low), float(high))

    numbers = range(len(names))
    return Agreement(
        variants=len(losses[0]),
        neighbors=tuple((names[a], names[b], told([(a, b)])) for a, b in pairwise(numbers)),
        overall=told(list(combinations(numbers, 2))),
    )


def tau_b(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of each line of two arrays of values, (lines, variants); NaN where a side is all tied."""
    first, second = np.triu_indices(here.shape[-1], 1)
    a = np.sign(here[:, first] - here[:, second])
    b = np.sign(there[:, first] - there[:, second])
    untied: np.ndarray = np.sqrt((a != 0).sum(-1) * (b != 0).sum(-1))
    return np.where(untied > 0, (a * b).sum(-1) / np.maximum(untied, 1), np.nan)


def _drawn_means(losses: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return means over n - 1 drawn seeds, the same for all variants: (draws, variants)."""
    seeds = losses.shape[1]
    chosen = generator.integers(0, seeds, size=(DRAWS, max(1, seeds - 1)))
    return losses[:, chosen].mean(-1).T


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
