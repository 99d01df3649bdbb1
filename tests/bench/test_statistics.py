"""Intervals mean what they say: counted over many repetitions of rounds with planted differences."""

import itertools
import math
import random

import pytest

from vgpt.bench.statistics import FEWEST, Spread, paired_ratio

REPETITIONS = 2000


def normal(draw):
    return draw.gauss(0, 0.04)


def with_outliers(draw):
    return draw.gauss(0, 0.02) + (abs(draw.gauss(0, 0.5)) if draw.random() < 0.1 else 0)


def rounds(draw, noise, count, slower):
    """Timings of a subject and of one that is so many times slower; both meet the same drift of the machine."""
    drift = [0.3 * math.sin(n + draw.random()) for n in range(count)]
    return tuple([math.exp(base + d + noise(draw)) for d in drift] for base in (0.0, math.log(slower)))


def share_that_shows(noise, count, slower, repetitions=REPETITIONS):
    draw = random.Random(2024)
    found = [rounds(draw, noise, count, slower) for _ in range(repetitions)]
    return sum(paired_ratio(second, first).shows for first, second in found) / repetitions


@pytest.mark.parametrize("noise", [normal, with_outliers])
@pytest.mark.parametrize("count", [6, 7, 10, 15])
def test_a_variant_differs_from_itself_in_one_of_twenty_repetitions_at_most(noise, count):
    assert 0.01 <= share_that_shows(noise, count, 1.0) <= 0.06


@pytest.mark.parametrize(("noise", "found"), [(normal, 0.97), (with_outliers, 0.5)])
def test_a_slowdown_of_ten_percent_is_found(noise, found):
    assert share_that_shows(noise, 10, 1.1, 500) > found


def test_the_interval_holds_the_true_ratio_in_95_of_100_repetitions():
    draw = random.Random(7)
    held = 0
    for _ in range(REPETITIONS):
        first, second = rounds(draw, normal, 10, 1.1)
        ratio = paired_ratio(second, first)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 1.1 <= ratio.high
    assert 0.94 <= held / REPETITIONS <= 0.98


def test_the_interval_is_that_of_all_patterns_of_signs():
    """Against the definition: a shift is kept where the signed ranks of what is left are not extreme."""
    ours = [1.02, 1.31, 0.97, 1.18, 1.11, 1.44, 1.07]
    ratio = paired_ratio(ours, [1.0] * 7)
    logs = [math.log(x) for x in ours]

    def rejected(shift):
        left = [x - shift for x in logs]
        ranks = {x: rank for rank, x in enumerate(sorted(left, key=abs), start=1)}
        seen = sum(ranks[x] for x in left if x > 0)
        signs = itertools.product((0, 1), repeat=7)
        sums = [sum(rank for rank, up in enumerate(ups, start=1) if up) for ups in signs]
        extreme = min(sum(s <= seen for s in sums), sum(s >= seen for s in sums)) / len(sums)
        return extreme <= 0.025

    assert ratio.low is not None
    assert ratio.high is not None
    inside = 1e-9
    assert not rejected(math.log(ratio.low) + inside)
    assert not rejected(math.log(ratio.high) - inside)
    assert rejected(math.log(ratio.low) - inside)
    assert rejected(math.log(ratio.high) + inside)


def test_too_few_rounds_bear_no_interval_and_show_nothing():
    for count in range(1, FEWEST):
        ratio = paired_ratio([2.0] * count, [1.0] * count)
        assert ratio.value == pytest.approx(2.0)
        assert (ratio.low, ratio.high, ratio.shows) == (None, None, False)
    assert paired_ratio([2.0] * FEWEST, [1.0] * FEWEST).shows


def test_a_ratio_the_other_way_round_is_that_of_the_subjects_swapped():
    draw = random.Random(1)
    first, second = rounds(draw, normal, 9, 1.3)
    one, other = paired_ratio(first, second), paired_ratio(second, first)
    assert (1 / one.value, 1 / one.high, 1 / one.low) == pytest.approx((other.value, other.low, other.high))


def test_a_spread_is_the_distance_between_the_quartiles():
    found = Spread.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    assert found.relative == pytest.approx(2 / 3)
    assert Spread.of([5.0]).relative == 0
