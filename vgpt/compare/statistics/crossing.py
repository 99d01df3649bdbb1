"""Where the baseline's loss over its budget crosses a variant's loss, with an interval over seeds.

The logarithm of the loss is taken as a quadratic in the logarithm of the budget, fitted by least squares to the five
budgets nearest to where it is read. A power law with a floor is that within a thousandth over such a range, and three
numbers are what five budgets bear. At a budget x, the fitted loss of a seed is a weighted mean of its losses at the
budgets, so that the difference between a variant and the curve at x is an ordinary difference over seeds: paired where
they share seeds, and tested like every other. The interval holds the budgets at which that test finds no difference.
Nothing is asked of how the losses of one seed at several budgets go together, and the noise of both sides is in it.

Sources: Fieller 1954, "Some problems in interval estimation", for intervals from tests of a linear combination; for the
power law with a floor, Hoffmann et al. 2022, arXiv 2203.15556, section 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vgpt.compare.statistics.family import Block, Noise, block_of, judge
from vgpt.compare.statistics.pooled import pooled_variance
from vgpt.compare.statistics.seeds import paired_t, welch_t

NEAREST = 5
"""Budgets that the curve is fitted to."""
LEAST_BUDGETS = 4
"""With fewer there is nothing by which a curve of three numbers could be wrong."""
_STEP = 0.01
"""How finely, in the logarithm of the budget, the ends of an interval are looked for before they are halved."""

EvaluationPart = Callable[[np.ndarray], tuple[float, float]]
"""Finds, for a row's difference to the curve, variance and freedom of the evaluation; given weights of the budgets."""


@dataclass(frozen=True)
class BudgetCurve:
    """The baseline's losses at its budgets.

    Attributes:
        budgets: as multiples of the common budget, rising.
        logs: logarithms of the losses, (seeds, budgets).
    """

    budgets: tuple[float, ...]
    logs: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Logarithms of the budgets, (budgets,)."""
        return np.log(np.array(self.budgets))

    def window(self, x: float) -> slice:
        """Return the budgets nearest to exp(x), which lie side by side: what the curve is fitted to there."""
        places, count = self.places, min(NEAREST, len(self.budgets))
        starts = range(len(places) - count + 1)
        start = min(starts, key=lambda i: max(abs(places[i] - x), abs(places[i + count - 1] - x)))
        return slice(start, start + count)

    def weights(self, x: float) -> np.ndarray:
        """Return with which weights the losses at the budgets make the fitted one at exp(x), (budgets,)."""
        window, found = self.window(x), np.zeros(len(self.budgets))
        found[window] = np.array([1.0, x, x * x]) @ np.linalg.pinv(self._design(window))
        return found

    def fitted(self, x: float) -> np.ndarray:
        """Return the fitted log loss of every seed at exp(x), (seeds,)."""
        return self.logs @ self.weights(x)

    def slopes(self, x: float) -> tuple[float, float]:
        """Return d log loss / d log budget of the mean curve at both ends of a window: it is linear between them."""
        window = self.window(x)
        _, linear, square = np.linalg.pinv(self._design(window)) @ self.logs.mean(0)[window]
        low, high = (float(linear + 2 * square * end) for end in self.places[window][[0, -1]])
        return low, high

    def misfit(self, x: float) -> float:
        """Return how far the budgets' mean losses lie off the curve at most, as a change of the budget's logarithm."""
        window = self.window(x)
        design, means = self._design(window), self.logs.mean(0)[window]
        residuals = means - design @ (np.linalg.pinv(design) @ means)
        return float(np.abs(residuals).max() / min(map(abs, self.slopes(x))))

    def bend_p(self, x: float) -> float | None:
        """Return the p-value of the fitted shape: of no cubic part in it, by its spread over seeds; None from one seed.

        The cubic part of a seed is the contrast of its losses that is orthogonal to every quadratic.
        """
        window = self.window(x)
        design, cubic = self._design(window), self.places[window] ** 3
        contrast = cubic - design @ (np.linalg.pinv(design) @ cubic)
        test = paired_t((self.logs[:, window] @ contrast).tolist())
        return None if test is None else test.p

    def _design(self, window: slice) -> np.ndarray:
        return np.vander(self.places[window], 3, increasing=True)


@dataclass(frozen=True)
class Place:
    """Where on the curve a loss lies.

    Attributes:
        x: logarithm of the budget; None where it lies on none that was trained.
        beyond: 1 where the baseline needs more than its largest budget, -1 where less than its smallest, else 0.
        flat: whether the curve does not fall all along the budgets that it is fitted to: a loss has no one place there.
    """

    x: float | None
    beyond: int = 0
    flat: bool = False


@dataclass(frozen=True)
class Ends:
    """The interval around a place, as logarithms of budgets; None for an end that no trained budget bounds."""

    low: float | None
    high: float | None


def place_of(curve: BudgetCurve, log_loss: float) -> Place:
    """Return where on the curve a loss lies, by its mean over seeds."""
    low, high = (float(end) for end in curve.places[[0, -1]])
    if log_loss > curve.fitted(low).mean():
        return Place(None, beyond=-1)
    if log_loss < curve.fitted(high).mean():
        return Place(None, beyond=1)
    x = _bisect(lambda x: log_loss - float(curve.fitted(x).mean()), low, high)
    return Place(None, flat=True) if max(curve.slopes(x)) >= 0 else Place(x)


def paired_ends(
    curve: BudgetCurve,
    logs: np.ndarray,
    places: Sequence[Place],
    total: int,
    evaluation: Sequence[EvaluationPart | None],
) -> list[Ends]:
    """Return the intervals of rows that share all seeds with the curve: they hold jointly, within a family of `total`.

    Args:
        curve: the baseline's.
        logs: log losses of the rows, (rows, seeds), seeds as in the curve.
        places: of the rows.
        total: rows of the family, these among them.
        evaluation: for each row what finds its evaluation noise, where losses per window are within reach.
    """
    parts = [
        one(curve.weights(place.x)) if one and place.x is not None else (0.0, 1.0)
        for one, place in zip(evaluation, places, strict=True)
    ]
    found: list[Ends] = []
    for number, place in enumerate(places):

        def beyond_noise(x: float, number: int = number) -> float:
            differences = logs - curve.fitted(x)
            noises = _noises(differences, parts)
            delta = float(differences[number].mean())
            return abs(delta) - judge(delta, noises[number], block_of(noises, logs.shape[1]), total).half_width

        found.append(_ends(curve, place, beyond_noise))
    return found


def unpaired_ends(
    curve: BudgetCurve, logs: np.ndarray, place: Place, total: int, evaluation: EvaluationPart | None = None
) -> Ends:
    """Return the interval of a row, log losses (seeds,), that shares no seeds with the curve, by Welch's t."""
    part = evaluation(curve.weights(place.x)) if evaluation and place.x is not None else (0.0, 1.0)

    def beyond_noise(x: float) -> float:
        test = welch_t(logs.tolist(), curve.fitted(x).tolist())
        assert test is not None  # a row with fewer than two runs has no interval
        noise = Noise(test.error**2, test.df, *part)
        return abs(test.delta) - judge(test.delta, noise, Block(1, len(logs)), total).half_width

    return _ends(curve, place, beyond_noise)


def _noises(differences: np.ndarray, parts: Sequence[tuple[float, float]]) -> list[Noise]:
    rows, seeds = differences.shape
    if rows > 1:
        variances, freedoms = pooled_variance(differences)
    else:
        variances, freedoms = differences.var(-1, ddof=1) / seeds, np.array([seeds - 1.0])
    return [Noise(float(v), float(df), *part) for v, df, part in zip(variances, freedoms, parts, strict=True)]


def _ends(curve: BudgetCurve, place: Place, beyond_noise: Callable[[float], float]) -> Ends:
    """Walk from the place outwards until the noise does not explain the difference any more, then halve the step."""
    assert place.x is not None  # a loss without a place has no interval
    edges = (float(curve.places[0]), float(curve.places[-1]))
    ends: list[float | None] = []
    for sign, edge in zip((-1, 1), edges, strict=True):
        inside, found = place.x, None
        while found is None and sign * (edge - inside) > 1e-12:
            outside = inside + sign * min(_STEP, sign * (edge - inside))
            if beyond_noise(outside) > 0:
                found = _bisect(beyond_noise, inside, outside)
            inside = outside
        ends.append(found)
    return Ends(*ends)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that is not positive at `low` becomes positive toward `high`."""
    for _ in range(40):
        middle = (low + high) / 2
        if function(middle) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2
