import numpy as np
import pytest

from vgpt.report.bootstrap import MOST_WINDOWS, paired_bootstrap


def drawn(windows, *, start=0):
    generator = np.random.default_rng(start)
    hardness = generator.normal(2.3, 0.8, windows)  # a hard window is hard for every model
    return hardness + generator.normal(0.02, 0.05, windows), hardness


def test_the_standard_error_is_that_of_the_mean_difference():
    left, right = drawn(200)
    found = paired_bootstrap([left], [right])
    assert found.windows == 200
    assert found.delta == pytest.approx(np.mean(left - right))
    assert found.se == pytest.approx((left - right).std() / 200**0.5, rel=0.05)
    assert found.low < found.delta < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.se, rel=0.05)


def test_pairing_takes_out_what_windows_have_in_common():
    left, right = drawn(200)
    shuffled = np.random.default_rng(1).permutation(right)
    assert paired_bootstrap([left], [right]).se < 0.1 * paired_bootstrap([left], [shuffled]).se


def test_the_interval_covers_the_difference_on_all_text_in_95_percent():
    covered = [
        found.low <= 0.02 <= found.high
        for start in range(1000)
        if (found := paired_bootstrap(*([side] for side in drawn(128, start=start))))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_runs_of_several_seeds_are_averaged_window_by_window():
    left, right = drawn(50)
    several = paired_bootstrap([left - 0.1, left + 0.1], [right])
    once = paired_bootstrap([left], [right])
    assert several.delta == pytest.approx(once.delta)
    assert several.se == pytest.approx(once.se)


def test_the_same_losses_give_the_same_noise_and_equal_models_none():
    left, right = drawn(64)
    assert paired_bootstrap([left], [right]) == paired_bootstrap([left], [right])
    assert paired_bootstrap([left], [left]).se == 0


def test_a_great_many_windows_are_the_bootstraps_limit():
    left, right = drawn(MOST_WINDOWS + 1)
    many = paired_bootstrap([left], [right])
    few = paired_bootstrap([left[:-1]], [right[:-1]])
    assert (many.se, many.low, many.high) == pytest.approx((few.se, few.low, few.high), rel=0.05)


def test_other_windows_are_refused_and_no_windows_are_no_noise():
    with pytest.raises(ValueError, match=r"\[3, 4\] windows"):
        paired_bootstrap([np.ones(3)], [np.ones(4)])
    assert paired_bootstrap([], [np.ones(4)]) is None
    assert paired_bootstrap([np.ones(1)], [np.ones(1)]) is None
