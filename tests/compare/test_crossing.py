"""Where a loss lies on the baseline's curve, against scipy's tests, numpy's fits and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.statistics.crossing import BudgetCurve, paired_ends, place_of, unpaired_ends

BUDGETS = (0.7, 0.85, 1.0, 1.2, 1.45)


def power_law(budget, floor=1.7, height=2.1, exponent=0.35):
    return floor + height * np.asarray(budget) ** -exponent


def noisy(seeds, truth=0.9, sd=0.01, start=0, budgets=BUDGETS):
    """Log losses of a baseline at its budgets, (seeds, budgets), and of a variant, (seeds,), with what seeds share."""
    generator = np.random.default_rng(start)
    shift = generator.normal(0, 0.03, (seeds, 1))
    baseline = power_law(budgets) + shift + generator.normal(0, sd, (seeds, len(budgets)))
    variant = power_law(truth) + shift[:, 0] + generator.normal(0, sd, seeds)
    return BudgetCurve(budgets, np.log(baseline)), np.log(variant)


def by_polyfit(curve, x):
    """The fitted log loss of every seed, by another least squares."""
    return np.array([np.polyval(np.polyfit(np.log(curve.budgets), line, 2), x) for line in curve.logs])


@pytest.mark.parametrize("truth", [0.75, 0.9, 1.0, 1.17, 1.4])
@pytest.mark.parametrize("exponent", [0.1, 0.35, 0.8])
def test_a_power_law_with_a_floor_is_inverted_within_a_thousandth_of_the_budget(truth, exponent):
    curve = BudgetCurve(BUDGETS, np.log(power_law(BUDGETS, exponent=exponent))[None])
    place = place_of(curve, math.log(power_law(truth, exponent=exponent)))
    assert place.x is not None
    assert math.exp(place.x) == pytest.approx(truth, abs=1e-3)
    assert curve.misfit(0.0) < 1e-3


def test_the_fitted_losses_are_those_of_a_least_squares_fit_per_seed():
    curve, _ = noisy(4)
    for x in (-0.3, 0.0, 0.2):
        assert curve.fitted(x) == pytest.approx(by_polyfit(curve, x))
        assert curve.weights(x).sum() == pytest.approx(1)


def test_of_more_budgets_the_five_nearest_count():
    budgets = (0.25, 0.35, 0.5, *BUDGETS, 2.0, 2.8)
    curve, _ = noisy(3, budgets=budgets)
    assert np.flatnonzero(curve.weights(0.0)).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(curve.weights(math.log(2.8))).tolist() == [5, 6, 7, 8, 9]
    assert np.flatnonzero(curve.weights(math.log(0.25))).tolist() == [0, 1, 2, 3, 4]


def test_paired_ends_are_where_students_test_of_the_differences_reaches_five_percent():
    curve, logs = noisy(5)
    place = place_of(curve, logs.mean())
    (ends,) = paired_ends(curve, logs[None], [place], 1, [None])
    for end in (ends.low, ends.high):
        assert stats.ttest_1samp(logs - by_polyfit(curve, end), 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert ends.low < place.x < ends.high


def test_unpaired_ends_are_where_welchs_test_reaches_five_percent():
    curve, _ = noisy(4)
    _, logs = noisy(6, start=1)
    place = place_of(curve, logs.mean())
    ends = unpaired_ends(curve, logs, place, 1)
    for end in (ends.low, ends.high):
        found = stats.ttest_ind(logs, by_polyfit(curve, end), equal_var=False).pvalue
        assert found == pytest.approx(0.05, abs=1e-6)


def test_what_a_seed_does_to_all_its_runs_alike_changes_nothing():
    curve, logs = noisy(4)
    factors = np.log([1.0, 1.02, 0.97, 1.01])
    shifted = BudgetCurve(BUDGETS, curve.logs + factors[:, None])
    (one,) = paired_ends(curve, logs[None], [place_of(curve, logs.mean())], 1, [None])
    moved = logs + factors
    (other,) = paired_ends(shifted, moved[None], [place_of(shifted, moved.mean())], 1, [None])
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-6)


def test_the_noise_of_the_evaluation_widens_an_interval():
    curve, logs = noisy(5)
    place = place_of(curve, logs.mean())
    (without,) = paired_ends(curve, logs[None], [place], 1, [None])
    (with_it,) = paired_ends(curve, logs[None], [place], 1, [lambda weights: (1e-5, 10.0)])
    assert with_it.low < without.low < without.high < with_it.high


def test_ends_of_a_larger_family_lie_further_out():
    curve, logs = noisy(5)
    place = place_of(curve, logs.mean())
    (alone,) = paired_ends(curve, logs[None], [place], 1, [None])
    (of_four,) = paired_ends(curve, logs[None], [place], 4, [None])
    assert of_four.low < alone.low < alone.high < of_four.high


def test_a_loss_beyond_the_budgets_has_no_place():
    curve, _ = noisy(3)
    for loss, beyond in ((power_law(0.5), -1), (power_law(2.2), 1)):
        place = place_of(curve, math.log(loss))
        assert (place.x, place.beyond) == (None, beyond)


def test_a_curve_that_rises_again_places_nothing():
    logs = np.log([[3.0, 2.6, 2.5, 2.6, 2.9]])
    place = place_of(BudgetCurve(BUDGETS, logs), math.log(2.95))
    assert place.x is None
    assert place.flat


def test_an_end_that_no_budget_bounds_is_none():
    curve, logs = noisy(3, truth=1.4, sd=0.03)
    (ends,) = paired_ends(curve, logs[None], [place_of(curve, logs.mean())], 1, [None])
    assert ends.high is None
    assert ends.low is not None


def test_the_shape_is_tested_by_the_cubic_part_of_every_seed():
    generator = np.random.default_rng(0)
    places = np.log(BUDGETS)
    straight = -0.2 * places + generator.normal(0, 1e-3, (5, 5))
    assert BudgetCurve(BUDGETS, straight).bend_p(0.0) > 0.05
    assert BudgetCurve(BUDGETS, straight - 0.3 * places**3).bend_p(0.0) < 0.01
    cubic = np.polynomial.Polynomial.fit
    parts = [cubic(places, line, 3).convert().coef[3] for line in straight]
    assert BudgetCurve(BUDGETS, straight).bend_p(0.0) == pytest.approx(stats.ttest_1samp(parts, 0).pvalue)


@pytest.mark.parametrize("rows", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_together_in_about_95_percent(rows):
    generator, number, truths, held = np.random.default_rng(3), 250, np.array([0.9, 1.17])[:rows], 0
    for _ in range(number):
        shift = generator.normal(0, 0.03, (3, 1))
        curve = BudgetCurve(BUDGETS, np.log(power_law(BUDGETS) + shift + generator.normal(0, 0.01, (3, 5))))
        logs = np.log(power_law(truths)[:, None] + shift.T + generator.normal(0, 0.01, (rows, 3)))
        places = [place_of(curve, line.mean()) for line in logs]
        found = paired_ends(curve, logs, places, rows, [None] * rows)
        held += all(
            (one.low is None or one.low <= math.log(t)) and (one.high is None or one.high >= math.log(t))
            for one, t in zip(found, truths, strict=True)
        )
    assert held / number == pytest.approx(0.95, abs=0.042)  # three standard errors of 250 draws
