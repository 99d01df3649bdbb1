"""Statistics over seeds: against numbers worked out by hand, scipy's own tests, and simulated comparisons."""

import itertools
import math

import numpy as np
import pytest

from vgpt.compare.statistics.seeds import mean_interval, paired_t, sign_flip_p, welch_t

COMPARISONS = 2_000


def test_a_mean_and_its_interval_as_worked_out_by_hand():
    # 1, 2, 3, 4: mean 2.5, sd sqrt(5/3); the table's t for 3 degrees of freedom is 3.182446
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4)
    assert found.sd == pytest.approx(math.sqrt(5 / 3))
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert (found.low, found.high) == (2.5 - found.half_width, 2.5 + found.half_width)


def test_a_paired_t_test_as_worked_out_by_hand():
    # 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 2 sqrt(3). For 2 degrees of freedom the distribution function is
    # 1/2 + t / (2 sqrt(2 + t^2)), so p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12/14); its 97.5 % point is 4.302653.
    found = paired_t([1.0, 2.0, 3.0])
    assert (found.delta, found.df) == (2.0, 2)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_a_t_test_of_one_degree_of_freedom_is_cauchys():
    # -1, 3: mean 1, standard error 2, t = 1/2; p = 1 - 2 atan(t) / pi
    assert paired_t([-1.0, 3.0]).p == pytest.approx(1 - 2 * math.atan(0.5) / math.pi, rel=1e-12)


def test_welchs_test_as_worked_out_by_hand():
    # 1, 2, 3 against 4, 8: means 2 and 6, variances of the means 1/3 and 4; Satterthwaite gives
    # (13/3)^2 / ((1/9)/2 + 16/1) = (169/9) / (289/18) = 338/289
    found = welch_t([1.0, 2.0, 3.0], [4.0, 8.0])
    assert found.delta == -4.0
    assert found.df == pytest.approx(338 / 289)
    assert found.half_width > 4


def test_a_permutation_test_as_worked_out_by_hand():
    # Of the 8 signed sums of 1, 2, 3 only 6 and -6 are as far out as 6.
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    # 3, 4, -1: sum 6. Sums at least as far out: +-8 (3+4+1) and +-6 (3+4-1): 4 of 8.
    assert sign_flip_p([3.0, 4.0, -1.0]) == 4 / 8
    # Ten equal signs: 2 of 1,024.
    assert sign_flip_p([0.1] * 10) == 2 / 1024


def test_ties_are_ties_whatever_the_order_of_summation():
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in float64: every pattern of the same size must count.
    values = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
    fractions = [1, 2, 3, 1, 2, 3]
    expected = np.mean([abs(np.dot(s, fractions)) >= 12 for s in itertools.product([1, -1], repeat=6)])
    assert {sign_flip_p(list(order)) for order in itertools.permutations(values)} == {expected}


@pytest.mark.parametrize("count", [2, 3, 5, 8, 11])
def test_sign_flips_count_what_a_list_of_all_patterns_counts(count):
    values = np.random.default_rng(count).normal(0.4, 1, count)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product([1, -1], repeat=count)]
    assert sign_flip_p(values) == pytest.approx(np.mean([s >= abs(values.sum()) - 1e-12 for s in sums]))


def test_drawn_flips_come_close_to_all_flips():
    values = np.random.default_rng(3).normal(0.35, 1, 20)
    drawn = sign_flip_p([*values, 0.0])  # a zero changes no sum: 21 values, and drawing begins
    assert drawn == pytest.approx(sign_flip_p(values), abs=0.005)
    assert sign_flip_p([*values, 0.0]) == drawn
    assert sign_flip_p([1.0] * 40) == pytest.approx(1 / 100_001)


def test_one_run_says_nothing_of_noise():
    assert mean_interval([2.3]) is None
    assert paired_t([0.1]) is None
    assert welch_t([0.1], [0.1, 0.2]) is None
    assert sign_flip_p([0.1]) is None


def test_equal_runs_show_no_difference_and_a_constant_one_is_sure():
    assert paired_t([0.0, 0.0, 0.0]).p == 1.0
    assert (paired_t([0.5, 0.5, 0.5]).p, paired_t([0.5, 0.5, 0.5]).half_width) == (0.0, 0.0)
    assert welch_t([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert welch_t([2.0, 2.0], [1.0, 1.0]).p == 0.0


@pytest.mark.oracle
def test_the_t_tests_agree_with_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(7)
    for left, right in [(2, 2), (3, 3), (5, 9), (30, 4)]:
        a, b = generator.normal(0, 1, left), generator.normal(0.3, 3, right)
        welch, theirs = welch_t(a, b), stats.ttest_ind(a, b, equal_var=False)
        low, high = theirs.confidence_interval()
        assert (welch.p, welch.df) == pytest.approx((theirs.pvalue, theirs.df))
        assert (welch.delta - welch.half_width, welch.delta + welch.half_width) == pytest.approx((low, high))
        paired, theirs = paired_t(a), stats.ttest_1samp(a, 0)
        low, high = theirs.confidence_interval()
        assert paired.p == pytest.approx(theirs.pvalue)
        assert (paired.delta - paired.half_width, paired.delta + paired.half_width) == pytest.approx((low, high))


# Simulated comparisons: seeds shift both variants alike, as paired seeds do, and each run has noise of its own.


def simulated(seeds, *, shift=0.0, comparisons=COMPARISONS, start=0):
    generator = np.random.default_rng(start)
    common = generator.normal(0, 0.03, (comparisons, seeds))
    left = 2.3 + common + generator.normal(0, 0.01, (comparisons, seeds)) + shift
    right = 2.3 + common + generator.normal(0, 0.01, (comparisons, seeds))
    return left, right


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_a_t_test_on_nulls_errs_in_5_percent(seeds):
    left, right = simulated(seeds)
    wrong = [paired_t(difference).p < 0.05 for difference in left - right]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seeds", [8, 10, 12])
def test_a_permutation_test_on_nulls_errs_in_5_percent(seeds):
    left, right = simulated(seeds)
    wrong = [sign_flip_p(difference) <= 0.05 for difference in left - right]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_a_permutation_test_on_few_seeds_never_errs_because_it_never_speaks(seeds):
    left, right = simulated(seeds, comparisons=200)
    assert min(sign_flip_p(difference) for difference in left - right) == 2 / 2**seeds > 0.05


@pytest.mark.parametrize("noise", ["skewed", "heavy"])
def test_a_permutation_test_needs_no_normal_noise(noise):
    generator = np.random.default_rng(1)
    draw = {"skewed": lambda s: generator.exponential(1, s), "heavy": lambda s: generator.standard_t(2, s)}[noise]
    differences = draw((COMPARISONS, 10)) - draw((COMPARISONS, 10))
    assert np.mean([sign_flip_p(difference) <= 0.05 for difference in differences]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("left", "right"), [(5, 5), (4, 9)])
def test_welchs_test_on_nulls_of_unequal_spread_errs_in_5_percent(left, right):
    generator = np.random.default_rng(2)
    a, b = generator.normal(2.3, 0.03, (COMPARISONS, left)), generator.normal(2.3, 0.01, (COMPARISONS, right))
    assert np.mean([welch_t(x, y).p < 0.05 for x, y in zip(a, b, strict=True)]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_the_interval_of_a_difference_covers_the_truth_in_95_percent(seeds, shift):
    left, right = simulated(seeds, shift=shift, start=seeds)
    found = [paired_t(difference) for difference in left - right]
    covered = [abs(test.delta - shift) <= test.half_width for test in found]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_of_a_mean_covers_the_truth_in_95_percent(seeds):
    values, _ = simulated(seeds, start=10 + seeds)
    covered = [found.low <= 2.3 <= found.high for found in map(mean_interval, values)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
