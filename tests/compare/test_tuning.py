import io
import json
import math
from statistics import fmean

import numpy as np
import pytest
from rich.console import Console

from vgpt.compare.audit.conditions import audit
from vgpt.compare.comparison import TUNED, grid
from vgpt.compare.rows import make_row
from vgpt.errors import SettingsError, UsageError
from vgpt.report.as_json import as_json
from vgpt.report.study_tables import plan_json
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.estimate import ThroughputEstimate
from vgpt.study.plan import make_plan
from vgpt.study.study import make_study
from vgpt.tracking.record import WindowLosses

# Loss of the tuning seeds, and of the reported ones, by variant and rate. The rates of mqa are chosen by the former,
# though the latter would choose another; mha does best in the middle, mqa at the edge.
PLANTED = {
    "mha": {1e-3: (2.50, 2.60), 2e-3: (2.40, 2.55), 4e-3: (2.45, 2.50)},
    "mqa": {1e-3: (2.60, 2.70), 2e-3: (2.50, 2.40), 4e-3: (2.30, 2.52)},
}
SEEDS = (1337, 1338, 1339)
TUNING = (2337, 2338, 2339)


@pytest.fixture
def swept(make_run):
    """Make all runs of the planted sweep, and the reader of their losses per window."""
    losses = {}

    def make(leave_out=lambda attn, lr, seed: False, **changes):
        runs = []
        for attn, rates in PLANTED.items():
            for lr, (tuning, reported) in rates.items():
                for seed in (*TUNING, *SEEDS):
                    if leave_out(attn, lr, seed):
                        continue
                    noise = 0.001 * (seed % 1000 - 338) * (1 + (attn == "mqa"))
                    loss = (tuning if seed in TUNING else reported) + noise
                    run = make_run(
                        attn,
                        settings={"lr": lr, "seed": seed, **changes},
                        metrics={"val/loss": loss, "val/bits_per_byte": 0.7 * loss},
                    )
                    losses[run.run_id] = WindowLosses(400, "4x128:0", (loss - 0.1, loss, loss, loss + 0.1))
                    runs.append(run)
        return runs

    return make, lambda run: losses.get(run.run_id)


def ask_sweep(*words, **typed):
    typed = {"sweep_lr": "3", "seeds": "3", **typed}
    return make_study(words or ["mha", "mqa"], Sources(load_preset("demo"), command_line=typed))


def answer(runs, windows, **typed):
    return ask_sweep(**typed).parts[0].answer(runs, windows)


def rendered(comparison, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(comparison):
        console.print(part)
    return console.file.getvalue()


def test_the_grid_doubles_around_the_given_rate():
    assert grid(2e-3, 3) == (1e-3, 2e-3, 4e-3)
    assert grid(2e-3, 5) == (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


def test_every_variant_is_tuned_at_the_same_rates_with_the_same_seeds_and_nothing_is_reported_before(swept):
    found = ask_sweep("mha", "mqa").parts[0].answer([])
    effort = {label: [(w.config.train.lr, w.seed) for w in found.missing if w.label == label] for label in PLANTED}
    assert effort["mha"] == effort["mqa"] == [(lr, seed) for lr in (1e-3, 2e-3, 4e-3) for seed in TUNING]
    assert len({wanted.config.settings_hash for wanted in found.missing}) == 18
    assert found.sweep.later == (6, 12)  # three seeds of two variants, at one rate or at two


def test_tuning_seeds_are_none_of_the_reported_ones_and_may_be_fewer():
    found = ask_sweep(sweep_seeds="1", seeds="1000").parts[0].answer([])
    assert {wanted.seed for wanted in found.missing} == {1337 + 1000}
    assert "--seed 2337" in found.missing[0].command
    with pytest.raises(UsageError, match="--sweep-seeds"):
        make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line={"sweep_seeds": "2"}))


def test_the_second_stage_is_what_the_first_has_chosen_and_the_common_rate(swept):
    make, windows = swept
    found = answer(make(lambda attn, lr, seed: seed in SEEDS), windows)
    asked = {label: [(w.config.train.lr, w.seed) for w in found.missing if w.label == label] for label in PLANTED}
    assert asked["mha"] == [(2e-3, seed) for seed in SEEDS]
    assert asked["mqa"] == [(lr, seed) for lr in (4e-3, 2e-3) for seed in SEEDS]
    assert (found.rows, found.sweep.later) == ((), (0, 0))


def test_a_given_lowest_rate_goes_along_in_proportion():
    part = ask_sweep(min_lr="1e-3").parts[0]
    assert [request.settings.train.min_lr for request in part.rates.values()] == [5e-4, 1e-3, 2e-3]


def test_the_rate_is_chosen_by_the_tuning_seeds_and_the_loss_is_that_of_the_reported_ones(swept):
    make, windows = swept
    found = answer(make(), windows)
    by_label = {one.label: one for one in found.sweep.variants}
    assert (by_label["mha"].chosen, by_label["mqa"].chosen) == (2e-3, 4e-3)
    assert by_label["mqa"].tuning[4e-3] == pytest.approx(2.30)
    assert by_label["mqa"].at_chosen == pytest.approx(2.52)
    assert by_label["mqa"].at_common == pytest.approx(2.40)
    assert [row.seeds for row in found.rows] == [tuple(map(str, SEEDS))] * 2
    assert [fmean(run.metrics["val/loss"] for run in row.runs) for row in found.rows] == [
        pytest.approx(2.55),
        pytest.approx(2.52),
    ]
    difference = found.statistics[1].difference
    assert difference.delta == pytest.approx(-0.03)
    assert difference.seeds == 3
    assert difference.verdict == "better"
    assert difference.noise.delta == pytest.approx(-0.03)
    assert difference.noise.windows == 4  # all of them, on both sides


def test_rates_that_were_tuned_may_differ_and_nothing_else(swept, make_run):
    make, windows = swept
    found = answer(make(), windows)
    assert found.audit.equal
    assert found.audit.tuned == ("lr", "min_lr")
    assert "Conditions: equal, but for lr, min_lr, tuned for each with equal effort" in " ".join(
        rendered(found).split()
    )
    rows = [make_row([make_run("mha", settings={"lr": 1e-3})]), make_row([make_run("mqa", settings={"dropout": 0.1})])]
    assert [one.name for one in audit(rows, tuned=TUNED).differences] == ["dropout"]
    assert [one.name for one in audit(rows).differences] == ["lr", "dropout"]


def test_a_rate_at_the_edge_of_the_grid_is_warned_of(swept):
    make, windows = swept
    found = answer(make(), windows)
    assert [one.edge for one in found.sweep.variants] == ["", "highest"]
    assert found.remarks == ("mqa does best at the highest rate of the grid, 0.004; a better one may lie beyond",)
    text = rendered(found)
    assert "mqa: the best rate is the highest of the grid" in text
    assert "0.004 !" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_rate_the_chosen_one_and_the_common_one(swept, width):
    make, windows = swept
    text = rendered(answer(make(), windows), width)
    assert max(map(len, text.splitlines())) <= width
    line = next(line for line in text.splitlines() if "2.3000" in line)
    assert [word for word in line.split() if word[0].isdigit()] == [
        *("2.6000", "2.5000", "2.3000"),
        *("0.004", "2.5200", "2.4000"),
    ]


def test_a_variant_with_missing_runs_is_not_shown_for_it_was_not_tuned_as_hard(swept):
    make, windows = swept
    found = answer(make(lambda attn, lr, seed: (attn, lr, seed) == ("mqa", 1e-3, 2339)), windows)
    assert [row.label for row in found.rows] == ["mha"]
    assert [(run.label, run.seed, run.config.train.lr) for run in found.missing] == [("mqa", 2339, 1e-3)]
    assert "mqa is not shown: tuning runs or their losses are missing at lr 0.001" in found.remarks


def test_a_rate_at_which_a_run_diverged_is_not_chosen_and_not_trained_again(swept, make_run):
    make, windows = swept
    runs = make(lambda attn, lr, seed: (attn, lr, seed) == ("mqa", 4e-3, 2339))
    runs.append(make_run("mqa", settings={"lr": 4e-3, "seed": 2339}, status="diverged"))
    found = answer(runs, windows)
    assert not found.missing
    assert found.sweep.variants[1].tuning[4e-3] == math.inf
    assert found.sweep.variants[1].chosen == 2e-3
    assert "diverged" in rendered(found)


def test_a_reported_seed_that_diverges_at_the_chosen_rate_leaves_no_verdict(swept, make_run):
    make, windows = swept
    runs = make(lambda attn, lr, seed: (attn, lr, seed) == ("mqa", 4e-3, 1339))
    runs.append(make_run("mqa", settings={"lr": 4e-3, "seed": 1339}, status="diverged"))
    found = answer(runs, windows)
    assert not found.missing
    assert found.statistics[1].difference.verdict == "diverged 1/3: no verdict"


def test_losses_per_window_are_not_needed_to_choose(swept):
    make, _ = swept
    found = answer(make(), lambda run: None)
    assert [one.chosen for one in found.sweep.variants] == [2e-3, 4e-3]


def test_a_baseline_without_tuning_keeps_its_place(swept):
    make, windows = swept
    found = answer(make(lambda attn, lr, seed: attn == "mha"), windows)
    assert [one.label for one in found.sweep.variants] == ["mha", "mqa"]
    assert "differences are against mqa" in found.remarks


def test_the_plan_shows_both_stages(swept):
    make, windows = swept
    found = answer(make(lambda attn, lr, seed: lr == 1e-3 or seed in SEEDS), windows)
    plan = make_plan([found], ThroughputEstimate([]))
    assert [(item.label, item.there, item.missing) for item in plan.items] == [("mha", 6, 3), ("mqa", 6, 3)]
    assert plan.later == (6, 12)
    assert plan.sentence().endswith(
        "These choose the learning rates; a second stage of 6 to 12 runs at the chosen and the common rate, "
        "with other seeds, is what is reported"
    )
    assert plan_json(plan)["second_stage"] == [6, 12]
    done = make_plan([answer(make(), windows)], ThroughputEstimate([]))
    assert (plan_json(done)["second_stage"], done.sentence()) == (
        None,
        "plan: all 36 runs exist; nothing to train",
    )


def test_luck_of_the_tuning_seeds_gives_nobody_an_advantage(make_run):
    """All rates are as good: the choice is luck alone, and the difference that is reported has no bias."""
    part = ask_sweep("mha", "mqa", seeds="3", sweep_seeds="1").parts[0]
    runs = [
        make_run(attn, settings={"lr": lr, "seed": seed})
        for attn in ("mha", "mqa")
        for lr in (1e-3, 2e-3, 4e-3)
        for seed in (TUNING[0], *SEEDS)
    ]
    generator = np.random.default_rng(1)
    deltas, tuned = [], []
    for _ in range(40):
        for run in runs:
            run.metrics["val/loss"] = 2.3 + generator.normal(0, 0.01)
        found = part.answer(runs)
        deltas.append(found.statistics[1].difference.delta)
        tuned += [one.tuning[one.chosen] for one in found.sweep.variants]
    assert np.mean(tuned) < 2.3 - 0.005  # the best of three: chosen by luck
    assert abs(np.mean(deltas)) < 4 * np.std(deltas) / len(deltas) ** 0.5
    assert np.std(deltas) == pytest.approx(0.01 * (2 / 3) ** 0.5, rel=0.35)


def test_the_whole_sweep_is_in_the_json(swept):
    make, windows = swept
    table = json.loads(json.dumps(as_json(answer(make(), windows)), allow_nan=False))
    assert table["conditions"]["tuned"] == ["lr", "min_lr"]
    sweep = table["sweep"]
    assert (sweep["rates"], sweep["common"]) == ([1e-3, 2e-3, 4e-3], 2e-3)
    assert sweep["tuning_seeds"] == list(map(str, TUNING))
    assert (sweep["variants"][1]["chosen"], sweep["variants"][1]["edge"]) == (4e-3, "highest")


@pytest.mark.parametrize("number", ["2", "4", "11"])
def test_the_number_of_rates_is_odd_and_reasonable(number):
    with pytest.raises(SettingsError, match="sweep"):
        ask_sweep(sweep_lr=number)


def test_a_run_cannot_be_tuned():
    with pytest.raises(UsageError, match="tunes variants, not runs"):
        ask_sweep("mha", "my_run")


def test_a_reported_run_that_came_out_otherwise_before_is_named_and_tuning_seeds_are_not(swept, make_run):
    make, windows = swept
    before = make_run("mha", settings={"lr": 2e-3, "seed": 1337}, metrics={"val/loss": 2.9})
    once = answer(make(), windows).audit
    assert once.notes == ()
    assert once.equal
    twice = answer([before, *make()], windows).audit
    assert [(one.name, one.values) for one in twice.differences] == [
        ("trained", {"mha": "seed 1337 twice: val loss 2.5490; val loss 2.9000", "mqa": "once"})
    ]
