"""Verdicts against a margin: a pure function of four bounds, which errs in 5% of comparisons and never contradicts."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.audit.conditions import audit
from vgpt.compare.rows import make_row
from vgpt.compare.statistics.differences import row_statistics, undecided
from vgpt.compare.statistics.family import Noise, block_of, judge
from vgpt.compare.statistics.margin import Bounds, Margin, answer, judge_requirement, margin_of
from vgpt.compare.statistics.pooled import row_level
from vgpt.settings.margin import parse_margin, parse_requirement

M = Margin("0.01", 0.01)
PLACES = [-0.03, -0.01, -0.005, 0.0, 0.005, 0.01, 0.03]  # outside, on and inside every edge


def every_bounds():
    """All orders of the four bounds over places on and between the edges: low <= at_least <= at_most <= high."""
    return [
        Bounds(low, high, at_least, at_most)
        for low, at_least, at_most, high in product(PLACES, repeat=4)
        if low <= at_least <= at_most <= high
    ]


def said(low, at_least, at_most, high):
    return answer(Bounds(low, high, at_least, at_most), M).verdict


def test_a_verdict_is_read_off_the_bounds_alone():
    assert said(-0.03, -0.03, -0.005, -0.001) == "better"
    assert said(-0.03, -0.02, 0.009, 0.02) == "no worse than 0.01"
    assert said(-0.02, -0.009, 0.009, 0.02) == "equal within 0.01"
    assert said(0.002, 0.003, 0.009, 0.011) == "equal within 0.01"
    assert said(0.002, 0.003, 0.011, 0.012) == "worse"
    assert said(0.011, 0.012, 0.02, 0.03) == "worse"
    assert said(-0.03, -0.02, 0.02, 0.03) == "not decided"


def test_a_bound_on_an_edge_shows_nothing():
    assert said(-0.03, -0.02, -0.001, 0.0) == "no worse than 0.01"  # high = 0: not better
    assert said(-0.02, -0.01, 0.005, 0.02) == "no worse than 0.01"  # at_least = -margin: not equal
    assert said(-0.02, -0.005, 0.01, 0.02) == "not decided"  # at_most = margin: not no worse
    assert said(0.0, 0.001, 0.02, 0.03) == "not decided"  # low = 0: not worse
    assert answer(Bounds(0.01, 0.03, 0.011, 0.02), M).beyond is False  # low = margin


def test_one_and_only_one_verdict_is_given_and_its_fact_holds_for_every_order_of_bounds_and_edges():
    for bounds in every_bounds():
        found = answer(bounds, M)
        strongest = {
            "better": bounds.high < 0,
            "equal within 0.01": bounds.at_most < 0.01 and bounds.at_least > -0.01,
            "no worse than 0.01": bounds.at_most < 0.01,
            "worse": bounds.low > 0,
            "not decided": True,
        }
        assert found.verdict == next(word for word, holds in strongest.items() if holds)
        assert (found.verdict == "not decided") == (not found.facts)


def test_no_two_facts_contradict_each_other():
    for bounds in every_bounds():
        one = answer(bounds, M)
        assert not (one.better and one.worse)
        assert not (one.no_worse and one.beyond)
        assert not (one.equal and not one.no_worse)
        assert not (one.better and not one.no_worse)
        assert not (one.beyond and not one.worse)
        # Some difference fits all that is said.
        low = max(
            [-1.0, *([0.0] if one.worse else []), *([0.01] if one.beyond else []), *([-0.01] if one.equal else [])]
        )
        high = min([1.0, *([0.0] if one.better else []), *([0.01] if one.no_worse or one.equal else [])])
        assert low < high


def test_within_zero_and_the_margin_both_facts_are_told():
    found = answer(Bounds(0.002, 0.009, 0.003, 0.008), M)
    assert found.verdict == "equal within 0.01"
    assert found.facts == ("equal within 0.01", "no worse than 0.01", "worse than the baseline")


def test_a_margin_takes_no_better_away_and_a_decided_row_stays_so_for_a_wider_margin():
    for bounds in every_bounds():
        plain, wide = answer(bounds), answer(bounds, Margin("0.02", 0.02))
        found = answer(bounds, M)
        assert (plain.verdict == "better") == (found.verdict == "better") == (wide.verdict == "better")
        assert not (found.no_worse and not wide.no_worse)
        assert plain.verdict in ("better", "worse", "no difference shown")
        assert found.decided == bool(found.no_worse or found.beyond)


def test_a_requirement_says_what_the_table_says():
    for bounds in every_bounds():
        one = answer(bounds, M)
        assert (judge_requirement(bounds, "no-worse-than", 0.01) == "shown") == one.no_worse
        assert (judge_requirement(bounds, "no-worse-than", 0.01) == "refuted") == one.beyond
        assert (judge_requirement(bounds, "equal-within", 0.01) == "shown") == one.equal
        assert (judge_requirement(bounds, "better-than", 0.0) == "shown") == one.better
        assert (judge_requirement(bounds, "better-than", 0.0) == "refuted") == one.worse
    assert judge_requirement(Bounds(-0.03, -0.02, -0.03, -0.02), "equal-within", 0.01) == "refuted"
    assert judge_requirement(Bounds(-0.03, -0.02, -0.03, -0.02), "better-than", 0.01) == "shown"
    assert judge_requirement(None, "no-worse-than", 0.01) == "undecided"


def test_margins_are_nats_or_a_share_of_the_baselines_loss():
    assert margin_of("0.5%", 2.4) == Margin("0.5%", pytest.approx(0.012))
    assert margin_of("1e-2", None) == Margin("1e-2", 0.01)
    assert (margin_of(None, 2.4), margin_of("1%", None)) == (None, None)
    for wrong in ("0", "-0.1", "x", "%", "inf", "nan", "0%", "0.1 nats", ""):
        with pytest.raises(ValueError, match="above zero"):
            parse_margin(wrong)


def test_requirements_have_three_words():
    found = parse_requirement("mla:kv_lora_rank=16  no-worse-than 0.5%")
    assert (found.variant, found.relation, found.margin) == ("mla:kv_lora_rank=16", "no-worse-than", "0.5%")
    assert parse_requirement("mla better-than 0").margin == "0"
    for wrong, why in {
        "mla no-worse-than": "not of the form",
        "mla no-wors-than 0.01": "did you mean 'no-worse-than'",
        "mla no-worse-than 0": "above zero",
        "mla equal-within 0": "above zero",
        "mla better-than -1": "above zero",
    }.items():
        with pytest.raises(ValueError, match=why):
            parse_requirement(wrong)


@pytest.fixture
def rows_of(make_run):
    names = ["mha", "mqa", "gqa", "gqa:n_kv_head=4", "local", "linear", "sparse"]

    def make(variants, seeds):
        return [
            make_row([make_run(name, settings={"seed": s}) for s in range(seeds)]) for name in names[: variants + 1]
        ]

    return make


def judged(rows, losses, margin=None):
    for row, own in zip(rows, losses, strict=True):
        for run, loss in zip(row.runs, own.tolist(), strict=True):
            run.metrics["val/loss"] = loss
    return row_statistics(rows, audit([]), margin=margin)


def test_the_bounds_of_one_variant_are_students(rows_of):
    rows, losses = rows_of(1, 4), np.array([[2.31, 2.33, 2.29, 2.32], [2.315, 2.33, 2.30, 2.321]])
    bounds = judged(rows, losses)[1].difference.bounds
    within = losses[1] - losses[0]
    error, critical = within.std(ddof=1) / 2, 2.353363  # Student's t, 3 degrees of freedom, 5% one-sided
    assert bounds.at_most == pytest.approx(within.mean() + critical * error, rel=1e-6)
    assert bounds.at_least == pytest.approx(within.mean() - critical * error, rel=1e-6)
    # "No worse" is the one-sided t-test against the margin, as scipy does it.
    for nats in (0.004, 0.006, 0.008, 0.02):
        p = stats.ttest_1samp(within, nats, alternative="less").pvalue
        assert answer(bounds, Margin(str(nats), nats)).no_worse == (p < 0.05)


def test_a_row_without_a_verdict_has_bounds_of_its_own_and_no_answer(rows_of):
    rows, losses = rows_of(1, 2), np.array([[2.31, 2.33], [2.32, 2.35]])
    one = judged(rows, losses, "0.01")[1].difference
    assert one.verdict == "n=2: no verdict"
    assert one.answer is None
    assert one.bounds.at_most == pytest.approx(0.015 + 6.313752 * 0.005, rel=1e-6)


def test_which_rows_are_decided_against_the_margin_is_one_function(rows_of):
    noise = np.array([0.0, 0.0001, -0.0001])
    losses = 2.3 + np.array([0 * noise, noise, 0.05 + noise, 0.01 - noise])  # nothing, beyond the margin, on it
    rows = rows_of(3, 3)
    assert undecided(judged(rows, losses, "0.01")) == (rows[3].label,)
    assert undecided(judged(rows, losses, "1.0")) == ()
    assert undecided(judged(rows, losses)) == (rows[1].label,)
    few = rows_of(1, 2)
    assert undecided(judged(few, losses[:2, :2], "0.01")) == (few[1].label,)


def test_a_stricter_level_widens_interval_and_bound():
    noises = [Noise(1.0, 6)] * 3
    block = block_of(noises, 5)
    usual, strict = (judge(0.0, noises[0], block, 3, alpha) for alpha in (0.05, 0.01))
    assert usual.bound < usual.half_width < strict.half_width
    assert usual.bound < strict.bound < strict.half_width


def test_one_sided_levels_of_six_normal_rows_lie_between_bonferronis_and_the_two_sided_level():
    # Half of the rows err upwards, half downwards: hardly more than what six tests apart would do.
    level = row_level(0.05, 6, 0, 1.0, sides=1)
    assert 0.05 / 6 < level < 1 - 0.95 ** (1 / 6) + 0.002


@pytest.mark.parametrize(("variants", "seeds"), [(1, 3), (6, 3), (6, 5)])
def test_no_worse_is_false_in_5_percent_at_a_difference_equal_to_the_margin(rows_of, variants, seeds):
    rows, generator, wrong, number = rows_of(variants, seeds), np.random.default_rng(2), 0, 800
    truth = np.array([0.0, *[0.02] * variants])
    for _ in range(number):
        losses = 2.3 + generator.normal(0, 0.03, seeds) + generator.normal(0, 0.01, (variants + 1, seeds))
        found = judged(rows, losses + truth[:, None], "0.02")[1:]
        wrong += any(one.difference.answer.no_worse for one in found)
    assert 0.03 <= wrong / number <= 0.07


def test_all_false_claims_of_a_family_together_stay_at_5_percent_whichever_side_they_are_on(rows_of):
    rows, generator, wrong, number = rows_of(6, 3), np.random.default_rng(3), 0, 1_500
    truth = np.array([0.0, 0.02, 0.02, 0.0, 0.0, -0.02, -0.02])
    for _ in range(number):
        losses = 2.3 + generator.normal(0, 0.03, 3) + generator.normal(0, 0.01, (7, 3))
        for one, true in zip(judged(rows, losses + truth[:, None], "0.02")[1:], truth[1:], strict=True):
            said = one.difference.answer
            false = (
                (said.better and true >= 0)
                or (said.worse and true <= 0)
                or (said.no_worse and true >= 0.02)
                or (said.equal and abs(true) >= 0.02)
                or (said.beyond and true < 0.02)
            )
            if false:
                wrong += 1
                break
    assert 0.03 <= wrong / number <= 0.065
