"""Compute-equivalents from a command's words to table, report and JSON, on made-up runs of real settings."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgpt.bench.result import Bench, Case, Machine, Measured
from vgpt.bench.statistics import paired_ratio
from vgpt.compare.comparison import Speeds
from vgpt.compare.worth import worth
from vgpt.errors import SettingsError, UsageError
from vgpt.files.text import to_json
from vgpt.report.as_json import as_json
from vgpt.report.equivalents import equivalent_lines
from vgpt.report.figures.equivalents import draw_equivalents
from vgpt.report.figures.style import as_svg
from vgpt.report.formats import as_csv
from vgpt.report.html.page import ReportSection, as_html
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.answers import answer_study
from vgpt.study.budgets import budget_factors
from vgpt.study.estimate import ThroughputEstimate
from vgpt.study.plan import make_plan
from vgpt.study.study import make_study

STEPS = 400  # of the demo preset
WORTH = {"gqa": 0.9, "mqa": 1.17}


def study_of(*words, **typed):
    given = {"equivalent": "tokens", "seeds": "3", "tracker": "journal", **typed}
    return make_study(words, Sources(load_preset("demo"), command_line=given))


def answered(study, runs, windows=lambda run: None):
    return [one.comparison for one in answer_study(study, runs, windows, print)]


def loss_at(budget):
    return 2.3 + 1.5 * budget**-0.5


@pytest.fixture
def trained(make_run):
    """Make the run that is wanted, with the loss of its budget or, for another variant, of what that is worth."""
    generator = np.random.default_rng(5)
    luck: dict[int, float] = {}

    def make(wanted, *, sd=0.004, worths=WORTH, **changes):
        config = wanted.config
        kind = config.model.attn.kind
        budget = worths.get(kind, config.steps / STEPS)
        shared = luck.setdefault(config.train.seed, generator.normal(0, 3 * sd))
        loss = loss_at(budget) + shared + generator.normal(0, sd)
        settings = {
            "seed": config.train.seed,
            "max_steps": config.steps,
            "warmup_steps": config.train.warmup_steps,
            "tracker": "journal",
        }
        tags = {"vgpt.batches": f"{config.steps} batches of {config.train.seed}", **changes.pop("tags", {})}
        return make_run(kind, settings=settings, metrics={"val/loss": loss}, tags=tags, **changes)

    return make


@pytest.fixture
def runs(trained):
    """All runs that the study of three variants wants."""
    (comparison,) = answered(study_of("mha", "gqa", "mqa"), [])
    return [trained(wanted) for wanted in comparison.missing]


def shown(comparison):
    console = Console(file=io.StringIO(), width=100)
    for part in tables(comparison):
        console.print(part)
    return console.file.getvalue()


def test_the_baseline_is_planned_at_every_budget_with_its_share_of_warm_up_and_the_same_seeds():
    (comparison,) = answered(study_of("mha", "mqa"), [])
    wanted = [
        (one.label, one.config.steps, one.config.train.warmup_steps, one.config.train.seed)
        for one in comparison.missing
    ]
    seeds = (1337, 1338, 1339)
    own = [(label, 400, 40, seed) for label in ("mha", "mqa") for seed in seeds]
    others = [("mha", n, n // 10, seed) for n in (280, 340, 480, 580) for seed in seeds]
    assert wanted == own + others
    assert "--max-steps 280 --warmup-steps 28" in comparison.missing[6].command


def test_the_plan_tells_other_budgets_apart_and_several_variants_share_them(runs):
    study = study_of("mha", "gqa", "mqa")
    first = make_plan(answered(study, []), ThroughputEstimate([]))
    assert {item.name: item.missing for item in first.items} == {
        "mha": 3,
        "gqa n_kv_head=2": 3,
        "mqa": 3,
        "mha at other budgets": 12,
    }
    done = make_plan(answered(study, runs), ThroughputEstimate(runs))
    assert done.missing == ()
    assert {item.label: item.there for item in done.items}["mha at other budgets"] == 12


def test_a_budget_of_tokens_becomes_steps(make_run):
    (comparison,) = answered(study_of("mha", max_tokens=str(200 * 2048), seeds="1"), [])
    assert sorted(one.config.steps for one in comparison.missing) == [140, 170, 200, 240, 290]
    assert {one.config.train.warmup_steps for one in comparison.missing} == {28, 34, 40, 48, 58}


def test_what_variants_are_worth_is_recovered_with_intervals_that_hold_it(runs):
    (comparison,) = answered(study_of("mha", "gqa", "mqa"), runs)
    found = comparison.equivalents
    assert [one.label for one in found.rows] == ["gqa:n_kv_head=2", "mqa"]
    for one, truth in zip(found.rows, WORTH.values(), strict=True):
        assert one.ratio == pytest.approx(truth, abs=0.02)
        assert one.low < truth < one.high
        assert (one.seeds, one.method, one.why) == (3, "paired", "")
    assert found.family == 2
    assert found.audit.equal
    assert found.misfit < 0.02


def test_table_sentence_json_figure_and_report_agree(runs):
    (comparison,) = answered(study_of("mha", "gqa", "mqa"), runs)
    one = comparison.equivalents.rows[1]
    sentence = f"mqa is worth {one.ratio:.2f}x [{one.low:.2f}, {one.high:.2f}] tokens"
    assert sentence in equivalent_lines(comparison)
    text = shown(comparison)
    assert sentence in text
    assert "Training of mha that a loss is worth" in text
    table = json.loads(to_json(as_json(comparison)))["equivalents"]
    assert table["rows"][1]["tokens"] == {"ratio": one.ratio, "low": one.low, "high": one.high, "why": ""}
    assert [line["factor"] for line in table["budgets"]] == [0.7, 0.85, 1.0, 1.2, 1.45]
    assert table["budgets"][0]["tokens"] == 280 * 2048
    assert all(len(line["losses"]) == 3 for line in table["budgets"])
    figure = draw_equivalents(comparison)
    assert sentence in figure.alt
    page = as_html([ReportSection(comparison, [figure])], command="vgpt compare", made=0.0)
    assert page.count(sentence) >= 2
    assert "0.85x" in as_svg(figure)
    for run in comparison.equivalents.runs:
        assert run.run_name in page  # where every run is from, those of other budgets too


def test_it_is_there_as_columns(runs):
    (comparison,) = answered(study_of("mha", "gqa", "mqa"), runs)
    baseline, gqa, mqa = as_csv(comparison, ["equivalent", "equivalent_low", "equivalent_high"]).splitlines()[1:]
    assert baseline == "mha,,,"
    assert [float(x) for x in mqa.split(",")[1:]] == [
        getattr(comparison.equivalents.rows[1], name) for name in ("ratio", "low", "high")
    ]
    assert gqa.count(",") == 3


def test_nothing_of_it_is_shown_where_nobody_asked(runs):
    study = make_study(("mha", "gqa"), Sources(load_preset("demo"), command_line={"seeds": "3", "tracker": "journal"}))
    (comparison,) = answered(study, runs)
    assert comparison.equivalents is None
    assert comparison.missing == ()
    assert "worth" not in shown(comparison)
    assert as_json(comparison)["equivalents"] is None
    assert draw_equivalents(comparison) is None


def test_a_loss_beyond_the_budgets_is_refused_with_the_budget_that_would_do(trained):
    study = study_of("mha", "gqa", "mqa")
    (empty,) = answered(study, [])
    worths = {"gqa": 0.6, "mqa": 1.7}
    (comparison,) = answered(study, [trained(wanted, worths=worths) for wanted in empty.missing])
    less, more = comparison.equivalents.rows
    assert (less.ratio, more.ratio) == (None, None)
    assert less.why == "less than 0.7x; needs the baseline at 0.5x: add --equivalent-to 0.5"
    assert more.why == "more than 1.45x; needs the baseline at 2x: add --equivalent-to 2"
    assert equivalent_lines(comparison) == []


def test_further_budgets_place_what_lay_beyond(trained):
    study = study_of("mha", "gqa", "mqa", equivalent_to="0.5,2")
    (empty,) = answered(study, [])
    worths = {"gqa": 0.6, "mqa": 1.7}
    (comparison,) = answered(study, [trained(wanted, worths=worths) for wanted in empty.missing])
    for one, truth in zip(comparison.equivalents.rows, worths.values(), strict=True):
        assert one.ratio == pytest.approx(truth, rel=0.03)
        assert one.low < truth < one.high


def test_further_budgets_hold_those_of_a_nearer_one():
    assert budget_factors([2]) == (0.7, 0.85, 1.0, 1.2, 1.45, 2.0)
    assert set(budget_factors([2])) < set(budget_factors([2.8])) < set(budget_factors([4]))
    assert budget_factors([0.4]) == (0.4, 0.5, 0.7, 0.85, 1.0, 1.2, 1.45)
    with pytest.raises(UsageError, match="lies within the budgets"):
        budget_factors([1.1])


def test_a_missing_budget_leaves_the_question_open_and_says_which(runs):
    some = [run for run in runs if run.params["max_steps"] != "480"]
    (comparison,) = answered(study_of("mha", "gqa"), some)
    (one,) = comparison.equivalents.rows
    assert one.ratio is None
    assert one.why == "the baseline is not complete at 1.2x its budget"
    assert len(comparison.missing) == 3


def test_a_diverged_seed_of_a_budget_leaves_it_open(runs):
    changed = [
        replace(run, status="diverged") if (run.params["max_steps"], run.seed) == ("480", "1338") else run
        for run in runs
    ]
    (comparison,) = answered(study_of("mha", "gqa"), changed)
    assert comparison.equivalents.rows[0].why == "the baseline is not complete at 1.2x (diverged 1/3) its budget"


def test_budgets_may_differ_in_budget_alone(runs):
    changed = [
        replace(run, tags={**run.tags, "vgpt.torch": "2.12.0"}) if run.params["max_steps"] == "480" else run
        for run in runs
    ]
    (comparison,) = answered(study_of("mha", "gqa"), changed)
    assert comparison.audit.equal
    assert comparison.equivalents.rows[0].why == "the baseline's budgets differ in torch: no verdict"
    (forced,) = answered(study_of("mha", "gqa", force=True), changed)
    assert forced.equivalents.rows[0].ratio is not None


def test_first_weights_of_a_seed_must_be_the_same_at_all_budgets(runs):
    changed = [
        replace(run, tags={**run.tags, "vgpt.start": "others"}) if run.params["max_steps"] == "480" else run
        for run in runs
    ]
    (comparison,) = answered(study_of("mha", "gqa"), changed)
    assert "first_weights" in comparison.equivalents.rows[0].why


def test_a_row_under_other_conditions_is_worth_nothing_that_could_be_said(runs):
    changed = [
        replace(run, tags={**run.tags, "vgpt.torch": "2.12.0"}) if run.attention[0] == "gqa" else run for run in runs
    ]
    (comparison,) = answered(study_of("mha", "gqa", "mqa"), changed)
    gqa, mqa = comparison.equivalents.rows
    assert (gqa.ratio, gqa.why) == (None, "unequal conditions: no verdict")
    assert mqa.ratio is not None
    assert comparison.equivalents.family == 1


def test_two_seeds_make_a_number_without_an_interval(trained):
    study = study_of("mha", "gqa", seeds="2")
    (empty,) = answered(study, [])
    (comparison,) = answered(study, [trained(wanted) for wanted in empty.missing])
    (one,) = comparison.equivalents.rows
    assert one.ratio == pytest.approx(0.9, abs=0.05)
    assert (one.low, one.high, one.why) == (None, None, "n=2: no interval")


def test_an_interval_that_leaves_the_budgets_says_which_one_would_close_it(trained):
    study = study_of("mha", "mqa")
    (empty,) = answered(study, [])
    noisy = [trained(wanted, sd=0.03, worths={"mqa": 1.38}) for wanted in empty.missing]
    (one,) = answered(study, noisy)[0].equivalents.rows
    assert one.high is None
    assert one.why == "the interval ends above 1.45x: add --equivalent-to 2"


def test_intervals_hold_jointly_over_the_comparisons_of_a_study(runs, trained):
    alone = answered(study_of("mha", "gqa"), runs)[0].equivalents.rows[0]
    study = study_of("mha", "gqa", pos="rope,learned")
    first, second = answered(study, runs)
    assert first.equivalents.family == 1  # nothing of the other part is there yet
    assert second.equivalents.rows == ()
    assert (first.equivalents.rows[0].low, first.equivalents.rows[0].high) == (alone.low, alone.high)
    both = [*runs]
    for wanted in second.missing:
        run = trained(wanted)
        params = {**run.params, "pos": "learned"}
        both.append(replace(run, params=params, tags={**run.tags, "vgpt.settings_hash": wanted.config.settings_hash}))
    first, second = answered(study, both)
    assert first.equivalents.family == second.equivalents.family == 2
    assert first.equivalents.rows[0].low < alone.low < alone.high < first.equivalents.rows[0].high


def speeds(comparison, here, there, disturbed=()):
    """The bench of two variants, in seconds of a step round by round."""
    names = [row.label for row in comparison.rows]
    measured = tuple(Measured(name, s, 2048, 1e9) for name, s in zip(names, (there, here), strict=True))
    case = Case("train", 16, 128, measured, disturbed=tuple(disturbed))
    machine = Machine("cpu", "float32", 1e11, "measured", 1e10, "2.13.0", "0.1.0", "f" * 16, 0.0)
    return Speeds(Bench(machine, {}, (case,)), {name: name for name in names})


THERE = (1.0, 1.1, 0.9, 1.3, 1.05, 0.95, 1.2, 1.0)
HERE = tuple(0.8 * t * w for t, w in zip(THERE, (1, 1.01, 0.99, 1, 1.02, 0.98, 1, 1), strict=True))


def test_flops_are_tokens_times_how_much_cheaper_one_of_the_baseline_is(runs):
    (comparison,) = answered(study_of("mha", "gqa", equivalent="flops"), runs)
    baseline, row = comparison.rows
    (one,) = comparison.equivalents.rows
    per_token = [x.runs[0].metrics["flops/train_per_token"] for x in (baseline, row)]
    value = worth(comparison, row, one, "flops")
    assert per_token[1] < per_token[0]
    assert value.ratio == pytest.approx(one.ratio * per_token[0] / per_token[1])
    assert value.low / one.low == pytest.approx(value.high / one.high)
    assert equivalent_lines(comparison)[0].endswith("training FLOPs")
    assert "training FLOPs" in " ".join(shown(comparison).split())


def test_seconds_join_the_noise_of_speeds_to_that_of_seeds(runs):
    (comparison,) = answered(study_of("mha", "gqa", equivalent="seconds"), runs)
    (one,) = comparison.equivalents.rows
    row = comparison.rows[1]
    measured = replace(comparison, speeds=speeds(comparison, HERE, THERE))
    value, ratio = worth(measured, row, one, "seconds"), paired_ratio(THERE, HERE)
    assert value.ratio == pytest.approx(one.ratio * ratio.value)
    assert ratio.value == pytest.approx(1.25, abs=0.02)
    by_seeds, by_speed = math.log(one.high / one.ratio), math.log(ratio.high / ratio.value)
    assert math.log(value.high / value.ratio) == pytest.approx(math.hypot(by_seeds, by_speed))
    assert equivalent_lines(measured)[0].endswith("training time")


def test_seconds_are_refused_where_speeds_were_not_measured_undisturbed(runs):
    (comparison,) = answered(study_of("mha", "gqa", equivalent="seconds"), runs)
    (one,) = comparison.equivalents.rows
    row = comparison.rows[1]
    assert "were not measured side by side" in worth(comparison, row, one, "seconds").why
    disturbed = replace(comparison, speeds=speeds(comparison, HERE, THERE, ["other processes used 1.0 cores"]))
    value = worth(disturbed, row, one, "seconds")
    assert value.ratio is None
    assert value.why == "speeds were disturbed: other processes used 1.0 cores; measure again on a quiet machine"
    few = replace(comparison, speeds=speeds(comparison, HERE[:4], THERE[:4]))
    assert worth(few, row, one, "seconds").ratio is None
    assert equivalent_lines(few) == []


@pytest.mark.parametrize(
    ("words", "typed", "message"),
    [
        (("some-run", "mha"), {}, "must be a variant"),
        ((), {}, "must be a variant"),
        (("mha", "mqa"), {"fork": "runs/a"}, "--fork exclude"),
        (("mha", "mqa"), {"patience": "3"}, "--patience exclude"),
        (("mha", "mqa"), {"max_steps": "5"}, "too few for budgets that differ"),
    ],
)
def test_comparisons_without_budgets_are_refused(words, typed, message):
    with pytest.raises(UsageError, match=message):
        study_of(*words, **typed)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"at_tokens": "1000"}, "--at-tokens exclude"),
        ({"sweep_lr": "3"}, "--sweep-lr exclude"),
        ({"equivalent_to": "1,2,3"}, "equivalent"),
    ],
)
def test_settings_that_contradict_it_are_refused(typed, message):
    with pytest.raises(SettingsError, match=message):
        study_of("mha", "mqa", **typed)


def test_without_settings_of_the_runs_there_is_nothing_to_scale():
    with pytest.raises(UsageError, match="nothing says under which settings"):
        make_study(("mha", "mqa"), Sources(command_line={"equivalent": "tokens"}))


def test_a_study_file_may_ask_for_it():
    Path("study.toml").write_text(
        'name = "worth"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = 3\n[settings]\nequivalent = "tokens"\n'
    )
    study = make_study((), Sources(command_line={"study": "study.toml"}))
    assert list(study.parts[0].budgets) == [0.7, 0.85, 1.0, 1.2, 1.45]
