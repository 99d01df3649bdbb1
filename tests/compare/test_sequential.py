"""Seeds added until all is decided: levels of looks against closed forms and simulation, and what tables then show."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.statistics.sequential import SeedRule, Sequential, look_at, look_levels, smallest_p, spent

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from sequential_rates import PAIR_SD, by_confidence_sequence, cell, follow_plan


def t_tests(generator, plans, most, effect=0.0):
    """Return two-sided p of scipy's t-test at 3, 4, ... seeds, (plans, looks)."""
    pairs = generator.normal(effect, 2.0, (plans, most))
    return np.stack([stats.ttest_1samp(pairs[:, :n], 0, axis=1).pvalue for n in range(3, most + 1)], axis=1)


@pytest.mark.parametrize("most", [4, 12])
def test_all_looks_together_err_in_five_percent_and_spend_it_as_planned(most):
    p = t_tests(np.random.default_rng(11), 40_000, most)
    levels = look_levels(0.05, most, 1)
    crossed = np.cumsum(np.cumsum(p <= levels, axis=1) > 0, axis=1) > 0
    assert crossed.mean(0) == pytest.approx(0.05 * (np.arange(3, most + 1) / most) ** 1.5, abs=0.003)
    assert spent(0.05, most)[-1] == pytest.approx(0.05)


def test_looking_without_a_plan_errs_far_more_often():
    p = t_tests(np.random.default_rng(11), 10_000, 12)
    assert (p <= 0.05).any(1).mean() > 0.12


def test_a_plan_of_one_look_is_a_fixed_number_of_seeds():
    assert look_levels(0.05, 3, 1) == pytest.approx((0.05,), abs=1e-3)


def test_the_first_look_has_what_is_spent_by_it():
    for rows in (1, 3):
        assert look_levels(0.05, 12, rows)[0] == pytest.approx(0.05 * (3 / 12) ** 1.5, abs=1e-4)


def test_rows_over_the_same_seeds_err_together_in_five_percent():
    # Independent draws: other noise than that of `smallest_p`, each row's p as the tables have it.
    levels, found = look_levels(0.05, 6, 3), smallest_p(3, 6)
    assert (found <= [np.quantile(found[:, k], level) for k, level in enumerate(levels)]).any(1).mean() < 0.0505
    rates = cell("normal", [0.0] * 3, None, 6, 250, to_the_end=True)
    assert rates["missed_at_any_look"] <= 0.05 + 3 * (0.05 * 0.95 / 250) ** 0.5


def test_simulated_plans_through_the_code_of_the_tables_err_as_they_may():
    null = cell("normal", [0.0], None, 12, 400, to_the_end=True)
    assert 0.01 < null["missed_at_any_look"] <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    edge = cell("normal", [1.0], 1.0, 6, 400)
    assert 0.01 < edge["wrong"] <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    seen = cell("normal", [4.0], None, 12, 60)
    assert (seen["decided"], seen["wrong"]) == (1.0, 0.0)
    assert seen["mean_seeds"] < 5


def test_the_spending_takes_fewer_seeds_than_a_confidence_sequence_at_differences_that_are_hard_to_show():
    p = t_tests(np.random.default_rng(5), 4_000, 12, effect=2.0)  # one standard deviation within a pair
    built = (p <= look_levels(0.05, 12, 1)).any(1).mean()
    best = max((p <= by_confidence_sequence(12, prior)).any(1).mean() for prior in (0.03, 0.1, 0.15))
    assert built > best + 0.2


def test_a_confidence_sequence_is_the_ratio_of_two_integrals():
    # Marginal likelihoods by quadrature over the effect: noncentral against central t of the same statistic.
    (level, *_), prior = by_confidence_sequence(3, 0.1), 0.1
    t = stats.t.isf(level / 2, 2)
    effects = np.linspace(-60, 60, 24_001)
    weights = stats.norm.pdf(effects, 0, prior**-0.5)
    mixed = np.trapezoid(stats.nct.pdf(t, 2, effects * 3**0.5) * weights, effects)
    assert mixed / stats.t.pdf(t, 2) == pytest.approx(20, rel=0.02)


def test_p_and_interval_and_bound_agree_at_every_look():
    generator, rule = np.random.default_rng(3), SeedRule(5, 1)
    for _ in range(40):
        losses = 2.3 + generator.normal(0, 0.01, (2, 5))
        losses[1] += 3 * PAIR_SD
        one = follow_plan(losses, rule, [0.0], None).statistics[1].difference
        assert (one.judged.p < 0.05) == (abs(one.delta) > one.half_width) == (one.verdict in ("better", "worse"))
        assert one.judged.bound <= one.judged.half_width
        level = look_levels(0.05, 5, 1)[look_at(one.seeds) - 1]
        pairs = (losses[1] - losses[0])[: one.seeds]
        half = stats.t.isf(level / 2, one.seeds - 1) * stats.sem(pairs)
        assert one.half_width == pytest.approx(half, rel=1e-6)


def test_what_readers_are_told():
    sentence = Sequential(SeedRule(12, 2), 5, "0.01", 3).sentence
    assert sentence.startswith("Sequential, look 3 of at most 10 (5 of at most 12 seeds)")
    assert "a margin of 0.01" in sentence
    assert sentence.endswith("; 3 seeds on record when the plan was made")
    assert "before the first look" in Sequential(SeedRule(12, 2), 2).sentence
