"""The trend of differences over compute: its line, its two intervals, the variance between rungs; and ranks."""

import math

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.rank_agreement import rank_agreement, tau_b
from vgpt.compare.statistics.trend import Point, fit_trend, point_of, variance_between

X = [11.0, 11.8, 12.5, 13.6]


def points(ys, variance=1e-4, df=4.0, xs=X):
    return [Point(x, y, variance, df) for x, y in zip(xs, ys, strict=False)]


def test_with_equal_noise_the_line_and_its_interval_are_least_squares():
    ys = [0.1, 0.4, 0.2, 0.9]
    trend, known = fit_trend(points(ys, 1e-9)), stats.linregress(X, ys)
    assert trend.slope == pytest.approx(known.slope)
    assert trend.df == 2
    assert trend.slope_half_width == pytest.approx(stats.t.ppf(0.975, 2) * known.stderr)
    value, half = trend.at(np.mean(X))
    assert value == pytest.approx(np.mean(ys))
    residual = math.sqrt(sum((y - known.intercept - known.slope * x) ** 2 for x, y in zip(X, ys, strict=True)) / 2)
    assert half == pytest.approx(stats.t.ppf(0.975, 2) * residual / 2)
    # The prediction interval of the textbook: Draper and Smith 1998, "Applied Regression Analysis", chapter 1.
    spread = 1 + 1 / 4 + (15 - np.mean(X)) ** 2 / np.sum((X - np.mean(X)) ** 2)
    value, half = trend.predict(15.0)
    assert value == pytest.approx(known.intercept + 15 * known.slope)
    assert half == pytest.approx(stats.t.ppf(0.975, 2) * residual * math.sqrt(spread))


def test_rungs_on_a_line_are_told_with_the_noise_of_their_seeds():
    trend = fit_trend(points([0.01 * x for x in X], 1e-4, df=3.0))
    assert trend.between == 0
    # Equal variances, each known from 3 degrees of freedom: Satterthwaite's of the sum, worked out by hand.
    pulls = (np.array(X) - np.mean(X)) / np.sum((X - np.mean(X)) ** 2)
    parts = 1e-4 * (0.5 * pulls**2 + 0.5 * np.mean(pulls**2))
    assert parts.sum() == pytest.approx(1e-4 / np.sum((X - np.mean(X)) ** 2))
    df = parts.sum() ** 2 / np.sum(parts**2 / 3)
    assert 3 < df <= 12
    assert trend.slope_half_width == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(parts.sum()))


def test_three_rungs_leave_one_degree_of_freedom():
    trend = fit_trend(points([0.0, 0.5, 0.2], 1e-9))
    known = stats.linregress(X[:3], [0.0, 0.5, 0.2])
    assert trend.df == 1
    assert trend.slope_half_width == pytest.approx(12.706 * known.stderr, rel=1e-4)


def test_two_rungs_show_no_scatter_and_one_no_trend():
    trend = fit_trend(points([0.1, 0.2], 1e-4, xs=[11.0, 12.0]))
    assert (trend.df, trend.between) == (0, 0)
    assert trend.slope == pytest.approx(0.1)
    assert trend.slope_half_width == pytest.approx(stats.t.ppf(0.975, 8) * math.sqrt(2e-4))
    assert fit_trend(points([0.1])) is None
    assert fit_trend(points([0.1, 0.2], xs=[11.0, 11.0])) is None


def test_the_variance_between_rungs_makes_the_weighted_scatter_what_it_should_be():
    ys, variances = np.array([0.1, 0.4, 0.2, 0.9]), np.array([1e-4, 4e-4, 1e-3, 2e-4])
    between = variance_between([Point(x, y, v, 4.0) for x, y, v in zip(X, ys, variances, strict=True)])
    weights = 1 / (0.5 * variances + 0.5 * variances.mean() + between)
    slope, intercept = np.polyfit(X, ys, 1, w=np.sqrt(weights))
    assert np.sum(weights * (ys - intercept - slope * np.array(X)) ** 2) == pytest.approx(2)
    assert variance_between(points([0.01 * x for x in X])) == 0


def test_the_noise_of_a_rung_adds_up_from_seeds_and_evaluation():
    assert point_of(12.0, 0.1, Noise(4e-4, 3.0)) == Point(12.0, 0.1, 4e-4, pytest.approx(3.0))
    both = point_of(12.0, 0.1, Noise(4e-4, 3.0, 4e-4, 40.0))
    assert both.variance == pytest.approx(8e-4)
    assert both.df == pytest.approx(8e-4**2 / (4e-4**2 / 3 + 4e-4**2 / 40))
    assert point_of(12.0, 0.0, Noise(0.0, 3.0)).variance == 0


def test_runs_without_any_noise_have_a_trend_of_no_width():
    trend = fit_trend(points([1.0, 2.0], 0.0, xs=[11.0, 12.0]))
    assert (trend.slope, trend.slope_half_width) == (pytest.approx(1.0), 0.0)


@pytest.mark.parametrize("levels", [1000, 4])
def test_tau_is_that_of_scipy_also_where_values_are_tied(levels):
    generator = np.random.default_rng(3)
    here, there = generator.integers(0, levels, (2, 50, 5)).astype(float)
    found = tau_b(here, there)
    for a, b, tau in zip(here, there, found, strict=True):
        known = stats.kendalltau(a, b, variant="b").statistic
        assert tau == pytest.approx(known, nan_ok=True)


def losses(means, noise, seed, seeds=3):
    return np.array(means)[:, None] + np.random.default_rng(seed).normal(0, noise, (len(means), seeds))


def test_orders_that_seeds_cannot_shake_have_an_interval_of_no_width():
    same = losses([1.0, 2.0, 3.0, 4.0], 0.01, 0)
    found = rank_agreement(["a", "b", "c"], [same, same + 1, same[[1, 0, 2, 3]]])
    (_, _, first), (_, _, second) = found.neighbors
    assert (first.value, first.low, first.high) == (1, 1, 1)
    assert (second.value, second.low, second.high) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found.overall.value == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_orders_that_seeds_make_have_a_wide_interval():
    found = rank_agreement(["a", "b"], [losses([1.0] * 4, 0.1, 0), losses([1.0] * 4, 0.1, 1)])
    (_, _, tau), *_ = found.neighbors
    assert tau.low < 0 < tau.high or tau.high - tau.low > 1


def test_one_seed_gives_an_agreement_without_an_interval_and_one_variant_none():
    one = losses([1.0, 2.0], 0.0, 0, seeds=1)
    assert rank_agreement(["a", "b"], [one, one]).overall.low is None
    assert rank_agreement(["a", "b"], [one[:1], one[:1]]) is None
    assert rank_agreement(["a"], [one]) is None


def test_drawn_means_vary_as_much_as_the_means_of_new_seeds_would():
    from vgpt.compare.statistics.rank_agreement import _drawn_means

    table = losses([1.0, 2.0], 0.1, 5)
    drawn = _drawn_means(table, np.random.default_rng(0))
    assert drawn.var(0) == pytest.approx(table.var(1, ddof=1) / 3, rel=0.1)
