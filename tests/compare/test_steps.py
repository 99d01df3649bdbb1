import numpy as np
import pytest
from scipy import stats

from vgpt.compare.statistics.chain import adjusted_p, half_width, seed_noise
from vgpt.compare.statistics.family import Noise
from vgpt.settings.loader import Sources
from vgpt.study.answers import answer_study
from vgpt.study.study import make_study

LEARNED = {"pos": "learned"}
LOSSES = {
    "gqa:n_kv_head=2": (2.50, 2.52, 2.49),
    "mha": (2.45, 2.46, 2.45),
    "mla:kv_lora_rank=128,qk_rope_head_dim=0": (2.47, 2.49, 2.46),
    "mla:kv_lora_rank=16,qk_rope_head_dim=0": (2.60, 2.61, 2.59),
    "mla:kv_lora_rank=16": (2.40, 2.41, 2.42),
}


@pytest.fixture
def answer(make_run, ask):
    """Answer the staircase from gqa to mla, from runs with made-up losses; of each variant some may be missing."""

    def make(missing=(), settings=LEARNED, **typed):
        from vgpt.settings.presets import load_preset

        runs = [
            make_run(attn, settings={"seed": seed, **settings}, metrics={"val/loss": loss})
            for attn, losses in LOSSES.items()
            for seed, loss in zip((1, 2, 3), losses, strict=True)
            if (attn, seed) not in missing
        ]
        words = {"from_": "gqa", "to": "mla:kv_lora_rank=16", "seed": "1", "seeds": "3", **settings, **typed}
        study = make_study([], Sources(load_preset("demo"), command_line=words))
        return answer_study(study, runs, lambda run: None, pytest.fail)[0].comparison

    return make


def test_the_steps_add_up_to_the_whole_measured_directly(answer):
    found = answer().climb
    means = [np.mean(losses) for losses in LOSSES.values()]
    assert [step.delta for step in found.steps] == pytest.approx(np.diff(means))
    assert found.whole.delta == pytest.approx(means[-1] - means[0])
    assert found.sum == pytest.approx(found.whole.delta, abs=1e-12)
    assert found.exact
    assert [found.cumulative(number) for number in range(5)] == pytest.approx(np.array(means) - means[0])


def test_a_step_that_brings_positions_tells_them_and_gets_a_verdict(answer):
    comparison = answer()
    *_, last = comparison.climb.steps
    assert last.positions == "positions learned -> learned+rope:16"
    assert last.verdict == "better"
    # Beside the first row, where other things changed too, the same positions are unequal conditions.
    assert "effective_positions" in comparison.audit.flagged[comparison.rows[-1].label]


def test_all_steps_and_the_whole_are_one_family(answer):
    found = answer().climb
    assert found.family == 5
    within = np.diff(np.array([*LOSSES.values()]), axis=0)
    for step, values in zip(found.steps, within, strict=True):
        alone = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
        assert step.difference.test.half_width == pytest.approx(alone)
        assert step.judged


def test_where_seeds_are_missing_the_sum_is_not_the_whole_and_that_is_said(answer):
    from vgpt.report.staircase import sum_lines

    found = answer(missing=[("mha", 3)]).climb
    assert not found.exact
    assert found.steps[0].seeds() == ("1", "2")
    assert not found.steps[0].judged
    (line,) = sum_lines(found)
    assert line.endswith("apart, since they are not over the same seeds (2 to 3 of them).")


def test_without_runs_of_a_stair_there_is_no_sum(answer):
    found = answer(missing=[("mha", seed) for seed in (1, 2, 3)])
    assert found.climb.sum is None
    assert [step.delta is None for step in found.climb.steps] == [True, True, False, False]
    assert found.climb.whole.delta is not None
    assert {wanted.label for wanted in found.missing} == {"mha"}


def test_another_condition_that_differs_still_forbids_a_verdict(answer, make_run):
    found = answer().climb
    assert all(step.judged for step in found.steps)
    from dataclasses import replace

    from vgpt.compare.steps import climb

    rows = list(found.rows)
    changed = [replace(run, tags={**run.tags, "vgpt.torch": "2.10.0"}) for run in rows[1].runs]
    rows[1] = replace(rows[1], runs=tuple(changed))
    again = climb(found.staircase, rows)
    assert [step.judged for step in again.steps] == [False, False, True, True]
    assert again.steps[0].verdict == "unequal conditions: no verdict"


def test_one_difference_alone_gets_students_interval():
    values = [0.1, 0.3, 0.2, 0.25]
    ((variance, df),) = seed_noise([values])
    test = stats.ttest_1samp(values, 0)
    noise = Noise(variance, df)
    low, high = test.confidence_interval(0.95)
    assert half_width(noise, ((1, 0),), 4) == pytest.approx((high - low) / 2)
    assert adjusted_p(float(np.mean(values)), noise, ((1, 0),), 4) == pytest.approx(test.pvalue)


def test_with_known_noise_the_joint_law_is_that_of_the_normal_distribution():
    pairs = ((1, 0), (2, 1), (3, 2), (3, 0))
    known = Noise(0.0, 2, windows=1.0, windows_df=1e9)
    width = half_width(known, pairs, 3, 1.0)
    contrasts = np.array([[-1, 1, 0, 0], [0, -1, 1, 0], [0, 0, -1, 1], [-1, 0, 0, 1]]) / np.sqrt(2)
    draws = np.random.default_rng(5).standard_normal((200_000, 4)) @ contrasts.T
    assert (np.abs(draws).max(1) < width).mean() == pytest.approx(0.95, abs=0.003)


@pytest.mark.parametrize(("steps", "seeds"), [(2, 3), (5, 3), (5, 8)])
def test_all_intervals_of_a_staircase_cover_in_95_percent(steps, seeds):
    pairs = (*((i, i - 1) for i in range(1, steps + 1)), (steps, 0))
    generator = np.random.default_rng(11)
    covered, rounds = 0, 1500
    for _ in range(rounds):
        runs = generator.standard_normal((steps + 1, seeds)) + generator.standard_normal(seeds)
        within = [runs[here] - runs[there] for here, there in pairs]
        widths = [half_width(Noise(*part), pairs, seeds) for part in seed_noise(within)]
        covered += all(abs(one.mean()) <= width for one, width in zip(within, widths, strict=True))
    assert covered / rounds == pytest.approx(0.95, abs=0.017)  # three standard errors
