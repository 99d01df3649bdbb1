"""Rows that are judged together: jointly valid tests and intervals, alone, beside one another, and over a study."""

from dataclasses import replace

import numpy as np
import pytest

from vgpt.compare.audit.conditions import audit
from vgpt.compare.choose import compare
from vgpt.compare.comparison import as_one_family
from vgpt.compare.rows import make_row
from vgpt.compare.statistics.differences import members, row_statistics
from vgpt.compare.statistics.family import Noise, block_of, judge
from vgpt.compare.statistics.pooled import joint_p, pooled_variance, row_level

NAMES = ["mha", "mqa", "gqa", "gqa:n_kv_head=4", "local", "linear", "sparse"]


@pytest.fixture
def rows_of(make_run):
    def make(variants, seeds):
        return [
            make_row([make_run(name, settings={"seed": s}) for s in range(seeds)]) for name in NAMES[: variants + 1]
        ]

    return make


def judged(rows, losses):
    """Put losses, (rows, seeds), into the runs and return the differences of all rows but the baseline."""
    for row, own in zip(rows, losses, strict=True):
        for run, loss in zip(row.runs, own.tolist(), strict=True):
            run.metrics["val/loss"] = loss
    return [one.difference for one in row_statistics(rows, audit([]))[1:]]


def test_a_pooled_variance_as_worked_out_by_hand():
    # Variances 1 and 4 of three seeds each: a third of their mean 2.5 and two thirds of their own, over 3 seeds.
    differences = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]])
    variance, df = pooled_variance(differences)
    assert variance * 3 == pytest.approx([2.5 / 3 + 2 / 3, 2.5 / 3 + 8 / 3])
    # The mean over rows is -1.5 0 1.5, variance 2.25: 0.9 of 2.5 is known from 2 degrees of freedom, the rest from 3.
    assert df == pytest.approx(1 / (0.9**2 / 2 + 0.1**2 / 3))


def test_the_level_of_a_row_and_its_joint_p_are_the_same_rule():
    for share in (0.0, 0.4):
        level = row_level(0.05, 6, 3, share)
        assert joint_p(level * 1.01, 6, 3, share) >= 0.05 > joint_p(level * 0.99, 6, 3, share)
    assert row_level(0.05, 1, 3) == 0.05 == joint_p(0.05, 1, 3)


def test_the_joint_level_of_normal_differences_is_dunnetts():
    # Dunnett 1964, table of the two-sided 5% points, infinite degrees of freedom, six treatments: 2.51.
    from scipy.special import ndtri

    level = row_level(0.05, 6, 3, 1.0)
    simulated = -ndtri(level / 2)
    assert simulated == pytest.approx(2.57, abs=0.08)


def test_two_parts_of_noise_have_a_critical_value_between_theirs():
    seeds, both, text = Noise(1.0, 2), Noise(0.5, 2, 0.5, 1000), Noise(0.0, 2, 1.0, 1000)
    assert seeds.half_width(0.05) == pytest.approx(4.3027, rel=1e-4)
    assert text.half_width(0.05) == pytest.approx(1.9623, rel=1e-4)
    assert both.half_width(0.05) == pytest.approx((4.3027 + 1.9623) / 2, rel=1e-4)
    assert both.p_value(both.half_width(0.03)) == pytest.approx(0.03)
    assert (Noise(0.0, 2).p_value(0.0), Noise(0.0, 2).p_value(0.1)) == (1.0, 0.0)


def test_six_variants_err_together_in_5_percent_and_their_intervals_cover_together(rows_of):
    rows, generator = rows_of(6, 3), np.random.default_rng(0)
    wrong, covered = 0, 0
    truth = np.array([0.0, 0.02, 0.0, -0.01, 0.0, 0.0, 0.05])
    for _ in range(1_000):
        losses = 2.3 + generator.normal(0, 0.03, 3) + generator.normal(0, 0.01, (7, 3))
        wrong += any(one.verdict in ("better", "worse") for one in judged(rows, losses))
        found = judged(rows, losses + truth[:, None])
        covered += all(abs(one.delta - t) <= one.half_width for one, t in zip(found, truth[1:], strict=True))
    assert 0.035 <= wrong / 1_000 <= 0.065
    assert 0.935 <= covered / 1_000 <= 0.965


def test_pooling_shows_what_single_rows_with_three_seeds_cannot(rows_of):
    rows, generator = rows_of(6, 3), np.random.default_rng(1)
    shown = 0
    for _ in range(500):
        losses = generator.normal(0, 0.01, (7, 3))
        losses[1] += 2 * 0.01 * 2**0.5
        shown += judged(rows, losses)[0].verdict == "worse"
    assert shown / 500 >= 0.36  # 0.10 by Holm's rule over single t-tests


def test_one_variant_is_tested_by_student_alone(rows_of):
    (one,) = judged(rows_of(1, 3), np.array([[1.0, 2.0, 3.0], [1.5, 2.7, 3.2]]))
    assert one.judged.p == pytest.approx(one.test.p)
    assert one.half_width == pytest.approx(one.test.half_width)


def test_more_rows_elsewhere_make_a_verdict_stricter():
    noises = [Noise(1.0, 6)] * 2
    block = block_of(noises, 5)
    alone, beside = judge(2.9, noises[0], block, 2), judge(2.9, noises[0], block, 16)
    assert beside.p == pytest.approx(8 * alone.p)
    assert beside.half_width > alone.half_width
    assert (beside.p < 0.05) == (beside.half_width < 2.9)


@pytest.fixture
def parts(make_run, ask):
    """Two parts of a study over other runs: one with a clear difference, one with a slight one."""

    def part(lr, shift):
        losses = {"mha": [2.30, 2.32, 2.31, 2.33], "mqa": [2.302, 2.327, 2.311, 2.336]}
        runs = [
            make_run(attn, settings={"seed": s, "lr": lr}, metrics={"val/loss": loss + shift * (attn == "mqa")})
            for attn, found in losses.items()
            for s, loss in enumerate(found)
        ]
        return compare(ask("mha", "mqa"), runs)

    return [part(1e-3, 0.05), part(2e-3, 0.004)]


def test_all_rows_of_a_study_are_one_family(parts):
    single = [one.statistics[1].difference for one in parts]
    assert [one.verdict for one in single] == ["worse", "worse"]
    assert single[1].judged.p > 0.05 / 8
    found = [one.statistics[1].difference for one in as_one_family([*parts, *[parts[1]] * 6])]
    assert [one.judged.rows for one in found] == [8] * 8
    assert [one.judged.p for one in found[:2]] == pytest.approx([8 * one.judged.p for one in single])
    assert [one.verdict for one in found[:2]] == ["worse", "no difference shown"]
    assert found[1].half_width > abs(found[1].delta)


def test_a_part_without_a_verdict_makes_no_other_stricter(parts):
    bare = replace(parts[1], statistics=parts[1].statistics[:1])
    assert members(bare.statistics) == 0
    assert as_one_family([parts[0], bare])[0].statistics == parts[0].statistics
