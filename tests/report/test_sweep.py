import io
import json
import math
from statistics import fmean

import pytest
from rich.console import Console

from vgpt.errors import SettingsError, UsageError
from vgpt.report.agenda import make_agenda
from vgpt.report.as_json import as_json
from vgpt.report.audit import audit
from vgpt.report.expected import Paces
from vgpt.report.grouping import make_row
from vgpt.report.study import make_study
from vgpt.report.sweep import TUNED, grid
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.tracking.windows import WindowLosses

# Loss on the even windows, and on the odd ones, by variant and rate. The rates of mqa are chosen by the even ones,
# though the odd ones would choose another; mha does best in the middle, mqa at the edge.
PLANTED = {
    "mha": {1e-3: (2.50, 2.60), 2e-3: (2.40, 2.55), 4e-3: (2.45, 2.50)},
    "mqa": {1e-3: (2.60, 2.70), 2e-3: (2.50, 2.40), 4e-3: (2.30, 2.52)},
}
SEEDS = (1337, 1338, 1339)


@pytest.fixture
def swept(make_run):
    """Make all runs of the planted sweep, and the reader of their losses per window."""
    losses = {}

    def make(leave_out=lambda attn, lr, seed: False, **changes):
        runs = []
        for attn, rates in PLANTED.items():
            for lr, (even, odd) in rates.items():
                for seed in SEEDS:
                    if leave_out(attn, lr, seed):
                        continue
                    noise = 0.001 * (seed - 1338) * (1 + (attn == "mqa"))
                    found = [x + noise + d for d in (-0.1, 0.1) for x in (even, odd)]
                    run = make_run(
                        attn,
                        settings={"lr": lr, "seed": seed, **changes},
                        metrics={"val/loss": fmean(found), "val/bits_per_byte": 0.7 * fmean(found)},
                    )
                    losses[run.run_id] = WindowLosses(400, "4x128:0", tuple(found))
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


def test_every_variant_gets_the_same_rates_and_seeds():
    missing = ask_sweep("mha", "mqa").parts[0].answer([]).missing
    effort = {label: sorted((w.config.train.lr, w.seed) for w in missing if w.label == label) for label in PLANTED}
    assert effort["mha"] == effort["mqa"] == [(lr, seed) for lr in (1e-3, 2e-3, 4e-3) for seed in SEEDS]
    assert len({wanted.config.settings_hash for wanted in missing}) == 18


def test_a_given_lowest_rate_goes_along_in_proportion():
    part = ask_sweep(min_lr="1e-3").parts[0]
    assert [request.settings.train.min_lr for request in part.rates.values()] == [5e-4, 1e-3, 2e-3]


def test_the_rate_is_chosen_on_the_even_windows_and_the_loss_is_that_of_the_odd_ones(swept):
    make, windows = swept
    found = answer(make(), windows)
    by_label = {one.label: one for one in found.sweep.variants}
    assert (by_label["mha"].chosen, by_label["mqa"].chosen) == (2e-3, 4e-3)
    assert by_label["mqa"].tuning[4e-3] == pytest.approx(2.30)
    assert by_label["mqa"].at_chosen == pytest.approx(2.52)
    assert by_label["mqa"].at_common == pytest.approx(2.40)
    assert [fmean(run.metrics["val/loss"] for run in row.runs) for row in found.rows] == [
        pytest.approx(2.55),
        pytest.approx(2.52),
    ]
    difference = found.statistics[1].difference
    assert difference.delta == pytest.approx(-0.03)
    assert difference.seeds == 3
    assert difference.verdict == "better"
    assert difference.noise.delta == pytest.approx(-0.03)
    assert difference.noise.windows == 2


def test_figures_that_follow_from_the_loss_follow_the_odd_windows(swept):
    make, windows = swept
    run = answer(make(), windows).rows[0].runs[1]
    assert run.metrics["val/perplexity"] == pytest.approx(math.exp(2.55))
    assert run.metrics["val/bits_per_byte"] == pytest.approx(0.7 * 2.55)
    assert run.metrics["val/loss_se"] == pytest.approx(0.1)  # two windows, 0.1 above and below


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
    found = answer(make(lambda attn, lr, seed: (attn, lr, seed) == ("mqa", 1e-3, 1339)), windows)
    assert [row.label for row in found.rows] == ["mha"]
    assert [(run.label, run.seed, run.config.train.lr) for run in found.missing] == [("mqa", 1339, 1e-3)]
    assert "mqa is not shown: runs or losses per window are missing at lr 0.001" in found.remarks


def test_a_rate_at_which_a_run_diverged_is_not_chosen_and_not_trained_again(swept, make_run):
    make, windows = swept
    runs = make(lambda attn, lr, seed: (attn, lr, seed) == ("mqa", 4e-3, 1339))
    runs.append(make_run("mqa", settings={"lr": 4e-3, "seed": 1339}, status="diverged"))
    found = answer(runs, windows)
    assert not found.missing
    assert found.sweep.variants[1].tuning[4e-3] == math.inf
    assert found.sweep.variants[1].chosen == 2e-3
    assert "diverged" in rendered(found)


def test_without_losses_per_window_no_rate_is_chosen(swept):
    make, _ = swept
    found = answer(make(), lambda run: None)
    assert found.rows == ()
    assert all(one.chosen is None for one in found.sweep.variants)


def test_the_plan_counts_the_runs_of_all_rates(swept):
    make, windows = swept
    found = answer(make(lambda attn, lr, seed: lr == 1e-3), windows)
    agenda = make_agenda([found], Paces([]))
    assert [(item.label, item.there, item.missing) for item in agenda.items] == [("mha", 6, 3), ("mqa", 6, 3)]


def test_the_whole_sweep_is_in_the_json(swept):
    make, windows = swept
    table = json.loads(json.dumps(as_json(answer(make(), windows)), allow_nan=False))
    assert table["conditions"]["tuned"] == ["lr", "min_lr"]
    sweep = table["sweep"]
    assert (sweep["rates"], sweep["common"]) == ([1e-3, 2e-3, 4e-3], 2e-3)
    assert (sweep["variants"][1]["chosen"], sweep["variants"][1]["edge"]) == (4e-3, "highest")


@pytest.mark.parametrize("number", ["2", "4", "11"])
def test_the_number_of_rates_is_odd_and_reasonable(number):
    with pytest.raises(SettingsError, match="sweep"):
        ask_sweep(sweep_lr=number)


def test_a_run_cannot_be_tuned():
    with pytest.raises(UsageError, match="tunes variants, not runs"):
        ask_sweep("mha", "my_run")
