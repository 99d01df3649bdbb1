"""Parts of two rows' losses against each other, checked against plain formulas and against resampling."""

import math

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.breakdowns.collect import collect
from vgpt.compare.breakdowns.differences import difference, gap_share
from vgpt.compare.choose import compare
from vgpt.compare.statistics.evaluation_noise import evaluation_noise
from vgpt.tracking.breakdowns.record import LENGTHS, REACH, RECALL, Breakdown, Part, pooled

WINDOWS = 400


def parts_of(seed, *, effect=0.0, hits_effect=0.0):
    """Losses of a made-up run: easy and hard windows are the same for all, what is left is the run's own."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    counts = shared.integers(0, 30, size=WINDOWS)
    hard = shared.normal(size=WINDOWS)
    hits = np.where(counts > 0, 2 + hits_effect + 0.3 * hard + 0.05 * own.normal(size=WINDOWS), 0.0)
    rest = 4 + effect + 0.5 * hard + 0.05 * own.normal(size=WINDOWS)
    return Part("repeated", 0, hits, counts), Part("other", 0, rest, 100 - counts)


def test_equally_many_tokens_in_every_window_are_the_case_of_whole_windows():
    rng = np.random.default_rng(5)
    here, there = rng.normal(size=WINDOWS) + 0.1, rng.normal(size=WINDOWS)
    counts = np.full(WINDOWS, 8)
    found = difference([("1", Part("a", 0, here, counts))], [("1", Part("a", 0, there, counts))])
    plain = evaluation_noise([here], [there])
    assert found.delta == pytest.approx(plain.delta)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    assert (found.method, found.over, found.runs) == ("single", "windows", 1)
    paired = stats.ttest_rel(here, there)
    assert found.high - found.low == pytest.approx(np.diff(paired.confidence_interval())[0])


def test_the_noise_of_a_part_is_that_of_resampled_windows_paired_between_the_runs():
    (here, _), (there, _) = parts_of(1, hits_effect=0.2), parts_of(2)
    found = difference([("1", here)], [("1", there)])
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(3000):
        pick = rng.integers(WINDOWS, size=WINDOWS)
        weight = here.counts[pick]
        drawn.append(((here.losses - there.losses)[pick] * weight).sum() / weight.sum())
    assert found.delta == pytest.approx(here.loss - there.loss)
    assert found.eval_se == pytest.approx(np.std(drawn), rel=0.08)
    assert found.shown
    # Easy and hard windows are the same for both: unpaired, the noise would be far larger.
    assert found.eval_se < 0.3 * math.hypot(here.loss_se, there.loss_se)


def test_with_shared_seeds_the_interval_holds_the_noise_of_the_seeds():
    sides = [[(str(n), parts_of(n + shift, hits_effect=0.1 * n)[0]) for n in (1, 2, 3)] for shift in (10, 20)]
    found = difference(*sides)
    within = [here.loss - there.loss for (_, here), (_, there) in zip(*sides, strict=True)]
    assert (found.method, found.runs, found.over) == ("paired", 3, "seeds and windows")
    assert found.delta == pytest.approx(np.mean(within))
    student = stats.t.ppf(0.975, 2) * np.std(within, ddof=1) / math.sqrt(3)
    assert found.half_width >= student * 0.999
    assert difference(sides[0], [("7", sides[1][0][1]), ("8", sides[1][1][1])]).method == "unpaired"
    assert difference(sides[0], []) is None


def test_a_part_without_a_token_has_no_difference():
    nothing = Part("repeated", 0, np.zeros(3), np.zeros(3, dtype=int))
    assert difference([("1", nothing)], [("1", nothing)]) is None


def test_the_share_of_the_gap_is_that_of_the_sums_and_its_noise_that_of_resampled_windows():
    here, there = parts_of(1, effect=0.02, hits_effect=0.4), parts_of(2)
    wholes = [pooled("", side) for side in (here, there)]
    found = gap_share(([("1", here[0])], [("1", there[0])]), ([("1", wholes[0])], [("1", wholes[1])]))
    hits = (here[0].losses - there[0].losses) * here[0].counts
    rest = (here[1].losses - there[1].losses) * here[1].counts
    assert found.share == pytest.approx(hits.sum() / (hits.sum() + rest.sum()))
    rng = np.random.default_rng(4)
    picks = rng.integers(WINDOWS, size=(3000, WINDOWS))
    drawn = hits[picks].sum(1) / (hits[picks].sum(1) + rest[picks].sum(1))
    assert found.half_width == pytest.approx(1.966 * drawn.std(), rel=0.08)


def test_a_gap_that_may_be_none_has_no_share():
    here, there = parts_of(1), parts_of(2)
    wholes = [pooled("", side) for side in (here, there)]
    assert not difference([("1", wholes[0])], [("1", wholes[1])]).shown
    assert gap_share(([("1", here[0])], [("1", there[0])]), ([("1", wholes[0])], [("1", wholes[1])])) is None


def recalled(seed, windows="400x100:a", **effects):
    return Breakdown(RECALL, 400, windows, "val", "float32", 100, 1, parts_of(seed, **effects))


def test_rows_are_held_against_each_other_on_the_windows_of_the_baseline(ask, make_run):
    runs = [make_run(attn, settings={"seed": seed}) for attn in ("mha", "gqa", "mqa") for seed in (1, 2)]
    comparison = compare(ask("mha", "gqa", "mqa"), runs)
    known = {}
    for run in runs[:5]:
        known[run.run_id] = {RECALL: recalled(len(known), hits_effect=0.3 if run.attention[0] == "gqa" else 0.0)}
    known[runs[4].run_id] = {RECALL: recalled(9, windows="7x3:other")}
    (found,) = collect(comparison.rows, lambda run: known.get(run.run_id, {})).values()
    base, gqa, mqa = (found.rows[row.label] for row in comparison.rows)
    assert (base.runs, gqa.runs, mqa.runs) == (2, 2, 0)
    assert base.part("repeated").difference is None
    assert base.gap is None
    assert gqa.part("repeated").difference.delta == pytest.approx(0.3, abs=0.02)
    assert gqa.part("repeated").share == pytest.approx(base.part("repeated").share)
    assert 0 < gqa.part("repeated").share < 0.3
    assert mqa.parts == ()
    assert mqa.missing == (runs[4].run_name, runs[5].run_name)


def test_runs_without_any_evaluation_have_no_breakdowns(three):
    assert collect(three.rows, lambda run: {}) == {}
    assert three.breakdowns == {}


def test_lengths_that_only_one_side_has_stand_there_without_a_difference(ask, make_run):
    runs = [make_run(attn) for attn in ("mha", "gqa")]
    comparison = compare(ask("mha", "gqa"), runs)

    def lengths(*at):
        parts = tuple(Part(str(n), n, np.full(3, 2.0), np.full(3, 512)) for n in at)
        return Breakdown(LENGTHS, 400, "3x512:a", "val", "float32", 64, 1, parts)

    near, far = np.array([1.0, 2.0, 3.0]), np.full(3, 5.0)
    spans = (Part("1-64", 64, near, np.full(3, 64)), Part("65-512", 512, far, np.full(3, 448)))
    long = Breakdown(REACH, 400, "3x512:a", "val", "float32", 64, 1, spans)
    known = {runs[0].run_id: {LENGTHS: lengths(64, 512), REACH: long}, runs[1].run_id: {LENGTHS: lengths(128, 512)}}
    found = collect(comparison.rows, lambda run: known[run.run_id])
    gqa = found[LENGTHS].rows[comparison.rows[1].label]
    assert gqa.part("128").difference is None
    assert gqa.part("512").difference.delta == 0
    assert gqa.part("512").share == 1.0
    assert found[REACH].rows[comparison.rows[0].label].part("beyond").loss == 5.0
    assert found[REACH].rows[comparison.rows[1].label].runs == 0
