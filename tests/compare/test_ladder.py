"""Ladders: sizes, sign flips, predictions of the next rung and of the last one, and how often they cover the truth."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vgpt.compare.ladder import Rung, RungDifference, backbone_parameters, climb, rung_after
from vgpt.compare.statistics.trend import Point
from vgpt.settings.model import ModelSettings

RUNGS = [Rung("a", 100_000, 200_000), Rung("b", 400_000, 300_000), Rung("c", 1_600_000, 450_000)]


def at(rung, delta, half_width=0.01):
    return RungDifference(rung, delta, half_width, "", 3, Point(rung.x, delta, 1e-5, 4.0))


def test_compute_is_six_flops_per_parameter_and_token():
    assert RUNGS[0].compute == 6 * 100_000 * 200_000
    assert RUNGS[0].x == pytest.approx(np.log10(1.2e11))


def test_the_parameters_of_a_rung_are_those_of_its_backbone_whatever_is_compared():
    # Per layer: 4 C^2 + 8 C^2 weights, biases of 4 C + 5 C, two norms of 2 C; one norm at the end.
    width, layers = 32, 3
    known = layers * (12 * width**2 + 9 * width + 4 * width) + 2 * width
    for attn in ("mha", "mla:kv_lora_rank=16", "linear"):
        for words in ({}, {"match": "params", "match_multiple": 1}):
            model = ModelSettings(attn=attn, n_layer=layers, n_embd=width, n_head=2, **words)
            assert backbone_parameters(model) == known
    untied = ModelSettings(n_layer=layers, n_embd=width, n_head=2, tie_weights=False)
    assert backbone_parameters(untied) == known


def test_flips_of_the_sign_are_told_with_whether_each_is_shown():
    steady = climb("v", [at(RUNGS[0], 0.1), at(RUNGS[1], 0.2), at(RUNGS[2], 0.1)], rung_after(RUNGS))
    assert steady.flips == []
    turned = climb("v", [at(RUNGS[0], -0.1), at(RUNGS[1], 0.2), at(RUNGS[2], -0.1, 0.11)], RUNGS[2])
    assert [(one.before.rung.name, one.after.rung.name, one.shown) for one in turned.flips] == [
        ("a", "b", True),
        ("b", "c", False),
    ]


def test_a_rung_without_a_verdict_has_no_part_in_trend_and_flips():
    one = climb("v", [at(RUNGS[0], 0.1), RungDifference(RUNGS[1], -0.3, 0.1, "n=1: no verdict", 1)], RUNGS[2])
    assert (one.trend, one.next, one.predictions, one.flips) == (None, None, (), [])


def test_the_last_rung_is_foretold_by_those_before_it_and_scored():
    line = [at(RUNGS[0], 0.10), at(RUNGS[1], 0.12), at(RUNGS[2], 0.14)]
    (made,) = climb("v", line, rung_after(RUNGS)).predictions
    assert (made.rung, made.rests_on, made.left_out, made.df) == ("c", ("a", "b"), True, 0)
    straight = np.polyval(np.polyfit([r.x for r in RUNGS[:2]], [0.10, 0.12], 1), RUNGS[2].x)
    assert made.value == pytest.approx(straight)
    assert made.observed == 0.14
    assert made.inside is (made.low <= 0.14 <= made.high)
    (bent,) = climb("v", [*line[:2], at(RUNGS[2], 0.9)], rung_after(RUNGS)).predictions
    assert bent.inside is False
    assert bent.width == pytest.approx(made.width)


def test_without_its_last_rung_a_ladder_leaves_nothing_out():
    assert climb("v", [at(RUNGS[0], 0.1), at(RUNGS[1], 0.2), RungDifference(RUNGS[2])], RUNGS[2]).predictions == ()


def test_beyond_the_last_rung_the_next_is_as_far_as_that_from_the_one_before():
    after = rung_after(RUNGS)
    assert after.compute == pytest.approx(RUNGS[2].compute ** 2 / RUNGS[1].compute)
    assert after.name == "c x6"


@pytest.fixture
def rates(monkeypatch):
    """The simulation that is recorded in benchmarks/results/ladder_rates.json."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import ladder_rates

    yield ladder_rates
    for name in ("ladder_rates", "verdict_rates", "_rates", "_hardware"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("rungs", "deviation"), [(3, 0.0), (3, 3.0), (4, 1.0)])
def test_intervals_of_trend_and_prediction_cover_the_truth(rates, rungs, deviation):
    # 240 differences of 80 ladders: a true coverage of 95% gives 0.90 or less in one of 300 such tests.
    found = rates.cell(80, rungs, 3, deviation)
    assert found["slope_coverage"] > 0.9
    assert found["prediction_coverage"] > 0.9


def test_two_rungs_cover_a_straight_line_and_not_one_that_deviates(rates):
    assert rates.cell(80, 2, 3, 0.0)["prediction_coverage"] > 0.9
    assert rates.cell(80, 2, 3, 3.0)["prediction_coverage"] < 0.85
