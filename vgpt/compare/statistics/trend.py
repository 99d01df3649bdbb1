"""The trend of a difference over the logarithm of compute, and what it predicts of another rung.

A difference at a rung is a straight line in x, plus a deviation of the rung from the line, plus the noise of its seeds
and of the evaluation, whose variance is known from the runs. Rungs weigh as much as both variances together let them.
The variance between rungs is Paule and Mandel's; it is estimated from k - 2 degrees of freedom.

Two intervals are computed, and the wider one is told:

- from the scatter around the line (Knapp and Hartung), with Student's t of k - 2 degrees of freedom. It is right
  however much rungs deviate from the line. From three rungs it has one degree of freedom: t = 12.7.
- from the noise of the seeds alone. By luck, where rungs happen to lie on a line, the first may be narrower than this.

From two rungs there is no scatter to be seen. The interval is then the second one alone, and is right only if
differences lie on a straight line; `df` is 0.

Sources: Paule and Mandel 1982, "Consensus values and weighting factors", in the form for regression of DerSimonian and
Kacker 2007; Knapp and Hartung 2003, "Improved tests for a random effects meta-regression with a single covariate";
the wider of two intervals as in Wiksten, Ruecker and Schwarzer 2016, "Hartung-Knapp method is not always
conservative compared with fixed-effect meta-analysis"; degrees of freedom as in Satterthwaite 1946.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.seeds import ALPHA

OWN_SHARE = 0.5
"""Weight of a rung's own variance; the rest is the mean over all rungs, since so few seeds make bad weights."""
_HALVINGS = 100


@dataclass(frozen=True)
class Point:
    """A difference at a rung.

    Attributes:
        x: decades of compute.
        y: the difference, nats per token.
        variance: of `y`, by seeds and evaluation.
        df: degrees of freedom of that variance.
    """

    x: float
    y: float
    variance: float
    df: float


def point_of(x: float, y: float, noise: Noise) -> Point:
    """Return the point of a difference with its noise, whose two parts are put together."""
    variance = noise.seeds + noise.windows
    spread = noise.seeds**2 / noise.df + noise.windows**2 / noise.windows_df
    return Point(x, y, variance, variance**2 / spread if spread else noise.df)


@dataclass(frozen=True)
class Trend:
    """A line through the differences of two rungs or more; see the module for its two intervals.

    Attributes:
        points: of the rungs.
        between: variance between rungs, beyond the noise of the seeds.
    """

    points: tuple[Point, ...]
    between: float

    @property
    def df(self) -> int:
        """Degrees of freedom of the scatter around the line."""
        return len(self.points) - 2

    @property
    def slope(self) -> float:
        """Change of the difference per decade of compute, nats per token."""
        return float(self._solution[0][1])

    @property
    def slope_half_width(self) -> float:
        """Half the width of the slope's 95% interval."""
        return self._half_width(np.array([0.0, 1.0]))

    def at(self, x: float) -> tuple[float, float]:
        """Return the line at a compute, and half the width of its 95% interval."""
        row = self._row(x)
        return float(row @ self._solution[0]), self._half_width(row)

    def predict(self, x: float) -> tuple[float, float]:
        """Return the difference to expect of a rung with as much noise as these, and half its prediction interval."""
        row = self._row(x)
        return float(row @ self._solution[0]), self._half_width(row, another=True)

    def _row(self, x: float) -> np.ndarray:
        return np.array([1.0, x - self._center])

    def _half_width(self, row: np.ndarray, *, another: bool = False) -> float:
        """Return the wider of the two intervals of a combination of intercept and slope, or of a new rung."""
        from scipy.special import stdtrit

        level = 1 - ALPHA / 2
        _, covariance, scale = self._solution
        by_scatter = 0.0
        if self.df:
            new = self.between + float(np.mean([one.variance for one in self.points])) if another else 0.0
            by_scatter = float(stdtrit(self.df, level)) * float(np.sqrt(scale * (row @ covariance @ row + new)))
        variance, df = self._of_seeds(row, another=another)
        return max(by_scatter, float(stdtrit(df, level)) * float(np.sqrt(variance)))

    def _of_seeds(self, row: np.ndarray, *, another: bool) -> tuple[float, float]:
        """Return variance and degrees of freedom of a combination by the noise of the seeds alone."""
        weights, _, _ = _system(self.points, 0.0)
        design = self._design
        pulls: np.ndarray = row @ np.linalg.inv(design.T @ (weights[:, None] * design)) @ (design.T * weights)
        own = np.array([one.variance for one in self.points])
        free = np.array([one.df for one in self.points])
        parts: np.ndarray = own * (OWN_SHARE * pulls**2 + (1 - OWN_SHARE) * np.mean(pulls**2) + another / len(own))
        total = float(parts.sum())
        return total, total**2 / float((parts**2 / free).sum()) if total else float(free.sum())

    @cached_property
    def _center(self) -> float:
        return float(np.mean([one.x for one in self.points]))

    @cached_property
    def _design(self) -> np.ndarray:
        x = np.array([one.x for one in self.points])
        return np.stack([np.ones_like(x), x - self._center], 1)

    @cached_property
    def _solution(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients, their covariance by the stated variances, and the scatter in units of those (1 for Q = k-2)."""
        weights, y, _ = _system(self.points, self.between)
        covariance: np.ndarray = np.linalg.inv(self._design.T @ (weights[:, None] * self._design))
        coefficients: np.ndarray = covariance @ (self._design.T @ (weights * y))
        residuals: np.ndarray = y - self._design @ coefficients
        scatter = float((weights * residuals**2).sum()) / self.df if self.df else 1.0
        return coefficients, covariance, scatter


def fit_trend(points: Sequence[Point]) -> Trend | None:
    """Return the weighted line through differences; None from fewer than two different amounts of compute."""
    if len({one.x for one in points}) < 2:
        return None
    return Trend(tuple(points), variance_between(points))


def variance_between(points: Sequence[Point]) -> float:
    """Return Paule and Mandel's variance between rungs: that by which Q, the weighted scatter, is k - 2; 0 at least."""
    free = len(points) - 2
    if free < 1 or _scatter(points, 0.0) <= free:
        return 0.0
    low, high = 0.0, 1.0
    while _scatter(points, high) > free:
        high *= 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _scatter(points, middle) > free else (low, middle)
    return high


def _scatter(points: Sequence[Point], between: float) -> float:
    weights, y, x = _system(points, between)
    mean_x, mean_y = (float((weights * one).sum() / weights.sum()) for one in (x, y))
    slope = float((weights * (x - mean_x) * (y - mean_y)).sum() / (weights * (x - mean_x) ** 2).sum())
    return float((weights * (y - mean_y - slope * (x - mean_x)) ** 2).sum())


def _system(points: Sequence[Point], between: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, differences and compute, the weights by moderated variances."""
    own = np.array([one.variance for one in points])
    moderated = OWN_SHARE * own + (1 - OWN_SHARE) * own.mean()
    total = moderated + between
    weights = 1 / total if total.min() > 0 else np.ones_like(total)
    return weights, np.array([one.y for one in points]), np.array([one.x for one in points])
