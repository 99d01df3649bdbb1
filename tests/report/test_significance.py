"""Statistics in a comparison: who is tested against whom, when a verdict is given, and how it is shown."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from vgpt.report.as_json import as_json
from vgpt.report.comparison import compare
from vgpt.report.tables import tables
from vgpt.tracking.windows import WindowLosses


def rendered(comparison, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(comparison):
        console.print(part)
    return console.file.getvalue()


def folded(text):
    return " ".join(text.split())


@pytest.fixture
def runs_of(make_run):
    """Make one run per loss, with the seeds 1, 2, ... or those given."""

    def make(attn, losses, seeds=None, **changes):
        settings = changes.pop("settings", {})
        return [
            make_run(attn, settings={**settings, "seed": seed}, metrics={"val/loss": loss}, **changes)
            for seed, loss in zip(seeds or range(1, len(losses) + 1), losses, strict=True)
        ]

    return make


MHA, WORSE, NOISY = [2.31, 2.33, 2.29, 2.32], [2.36, 2.38, 2.345, 2.37], [2.30, 2.35, 2.28, 2.32]


def difference(comparison, row=1):
    return comparison.statistics[row].difference


def test_runs_are_paired_by_seed_in_whatever_order_they_were_made(runs_of, ask):
    runs = [*runs_of("mha", MHA), *reversed(runs_of("mqa", WORSE))]
    found = difference(compare(ask("mha", "mqa"), runs))
    assert (found.method, found.seeds) == ("paired", 4)
    assert found.delta == pytest.approx(np.mean(WORSE) - np.mean(MHA))
    within = np.subtract(WORSE, MHA)
    assert found.test.half_width == pytest.approx(3.182446 * within.std(ddof=1) / 2, rel=1e-6)
    assert found.p_permutation == 2 / 16
    assert found.test.p < 0.001
    assert found.verdict == "worse"


def test_lower_losses_are_better_and_noise_shows_nothing(runs_of, ask):
    runs = [*runs_of("mqa", MHA), *runs_of("mha", WORSE), *runs_of("gqa", np.add(NOISY, 0.055))]
    found = compare(ask("mha", "mqa", "gqa"), runs)
    assert [difference(found, row).verdict for row in (1, 2)] == ["better", "no difference shown"]


def test_only_shared_seeds_are_paired(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", [2.345, 2.37, 9.0], seeds=[3, 4, 99])]
    found = difference(compare(ask("mha", "mqa"), runs))
    assert (found.method, found.seeds) == ("paired", 2)
    assert found.delta == pytest.approx(0.0525)
    assert found.verdict == "n=2: no verdict"


def test_runs_without_shared_seeds_are_tested_by_welch(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE, seeds=[11, 12, 13, 14])]
    comparison = compare(ask("mha", "mqa"), runs)
    found = difference(comparison)
    assert (found.method, found.seeds, found.p_permutation, found.seeds_needed) == ("unpaired", 4, None, None)
    assert 3 < found.test.df <= 6
    assert as_json(comparison)["conditions"]["seeds_equal"] is False
    assert "No shared seeds: difference of means, by Welch's test" in folded(rendered(comparison))


def test_one_run_gives_a_difference_and_no_verdict(runs_of, ask):
    for baseline in (MHA[:1], MHA):
        found = difference(compare(ask("mha", "mqa"), [*runs_of("mha", baseline), *runs_of("mqa", [2.41])]))
        assert (found.method, found.seeds, found.test, found.p_holm) == ("single", 1, None, None)
        assert found.delta == pytest.approx(0.1)  # to the baseline's run of the same seed
        assert found.verdict == "n=1: no verdict"


def test_holm_counts_all_rows(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE), *runs_of("gqa", NOISY), *runs_of("gqa:n_kv_head=4", WORSE)]
    found = compare(ask("mha", "mqa", "gqa:n_kv_head=2", "gqa:n_kv_head=4"), runs)
    tests = [difference(found, row) for row in (1, 2, 3)]
    assert tests[0].p_holm == pytest.approx(3 * tests[0].test.p)
    assert tests[1].p_holm == pytest.approx(tests[1].test.p)


def test_unequal_conditions_get_no_verdict_unless_forced_and_then_it_is_written_on_the_table(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE, settings={"lr": 0.5}), *runs_of("gqa", WORSE)]
    found = compare(ask("mha", "mqa", "gqa"), runs)
    verdicts = [difference(found, row).verdict for row in (1, 2)]
    assert verdicts == ["unequal conditions: no verdict", "worse"]
    assert "force" not in rendered(found).lower()
    forced = compare(ask("mha", "mqa", "gqa", force=True), runs)
    assert [difference(forced, row).verdict for row in (1, 2)] == ["worse", "worse"]
    text = rendered(forced)
    assert "Differences to mha in validation loss (--force: across unequal conditions)" in text
    assert "FORCED: verdicts across unequal conditions" in text
    assert as_json(forced)["forced"] is True


def test_force_is_not_written_where_nothing_was_unequal(runs_of, ask):
    found = compare(ask("mha", "mqa", force=True), [*runs_of("mha", MHA), *runs_of("mqa", WORSE)])
    assert "FORCE" not in rendered(found).upper()


def test_a_baseline_whose_own_runs_disagree_gives_nobody_a_verdict(runs_of, ask, make_run):
    mixed = [*runs_of("mha", MHA[:3]), make_run("mha", settings={"seed": 4}, tags={"vgpt.torch": "2.0"})]
    found = compare(ask("mha", "mqa"), [*mixed, *runs_of("mqa", WORSE)])
    assert difference(found).verdict == "unequal conditions: no verdict"


@pytest.mark.parametrize("variants", [1, 3])
def test_verdicts_on_simulated_nulls_are_wrong_in_at_most_5_percent_of_comparisons(runs_of, ask, variants):
    from vgpt.report.audit import audit
    from vgpt.report.differences import row_statistics
    from vgpt.report.grouping import make_row

    names = ["mha", "mqa", "gqa", "gqa:n_kv_head=4"][: variants + 1]
    rows = [make_row(runs_of(name, [0.0] * 3)) for name in names]
    audited = audit(rows)
    generator = np.random.default_rng(variants)
    wrong = 0
    for _ in range(2_000):
        shared = generator.normal(2.3, 0.03, 3)
        for row in rows:
            for run, loss in zip(row.runs, shared + generator.normal(0, 0.01, 3), strict=True):
                run.metrics["val/loss"] = loss
        verdicts = [one.difference.verdict for one in row_statistics(rows, audited)[1:]]
        wrong += any(verdict in ("better", "worse") for verdict in verdicts)
    assert wrong / 2_000 <= 0.06
    assert variants > 1 or wrong / 2_000 >= 0.04


def windows_of(losses, *, name="64x128:aaaa"):
    """Losses per window whose mean is the loss of the run; hard windows are hard for all."""
    hardness = np.random.default_rng(5).normal(0, 0.7, 64)
    table = {}
    for number, (run, loss) in enumerate(losses):
        own = np.random.default_rng(number).normal(0, 0.02, 64)
        table[run.run_id] = WindowLosses(400, name, tuple(loss + hardness + own - (hardness + own).mean()))
    return lambda run: table.get(run.run_id)


def test_evaluation_noise_stands_apart_from_seed_noise(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE)]
    windows = windows_of([(run, run.metrics["val/loss"]) for run in runs])
    found = compare(ask("mha", "mqa"), runs, windows=windows)
    noise = difference(found).noise
    assert noise.delta == pytest.approx(difference(found).delta)
    assert 0.0005 < noise.se < 0.003
    text = rendered(found)
    assert f"±{noise.se:.4f}" in text
    assert "says nothing about other seeds" in folded(text)


def test_one_run_each_shows_evaluation_noise_and_still_no_verdict(runs_of, ask):
    runs = [*runs_of("mha", MHA[:1]), *runs_of("mqa", WORSE[:1])]
    found = compare(ask("mha", "mqa"), runs, windows=windows_of([(run, run.metrics["val/loss"]) for run in runs]))
    assert difference(found).noise.se < 0.01
    lines = [line for line in rendered(found).splitlines() if line.startswith("mqa")]
    assert lines[1].split() == ["mqa", "1", "+0.0500", f"±{difference(found).noise.se:.4f}", "n=1:", "no", "verdict"]


def test_losses_on_other_windows_or_of_some_runs_only_are_no_evaluation_noise(runs_of, ask):
    mha, mqa = runs_of("mha", MHA), runs_of("mqa", WORSE)
    some = windows_of([(run, 2.3) for run in [*mha, *mqa[:2]]])
    assert difference(compare(ask("mha", "mqa"), [*mha, *mqa], windows=some)).noise is None
    here, there = windows_of([(r, 2.3) for r in mha]), windows_of([(r, 2.3) for r in mqa], name="64x128:bbbb")
    other = compare(ask("mha", "mqa"), [*mha, *mqa], windows=lambda run: here(run) or there(run))
    assert difference(other).noise is None


def test_statistics_golden(runs_of, ask, check_golden):
    runs = [*runs_of("mha", MHA), *runs_of("gqa", NOISY), *runs_of("mqa", WORSE)]
    runs += runs_of("gqa:n_kv_head=4", [2.3])
    windows = windows_of([(run, run.metrics["val/loss"]) for run in runs])
    found = compare(ask("mha", "gqa:n_kv_head=2", "gqa:n_kv_head=4", "mqa"), runs, windows=windows)
    check_golden("compare_statistics.txt", rendered(found, 80))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal(runs_of, ask, width):
    runs = [*runs_of("mha", MHA), *runs_of("gqa", NOISY), *runs_of("mqa", WORSE, settings={"lr": 0.5})]
    windows = windows_of([(run, run.metrics["val/loss"]) for run in runs])
    text = rendered(compare(ask("mha", "gqa", "mqa"), runs, windows=windows), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_a_row_without_a_loss_is_said_to_have_none(runs_of, ask):
    mqa = runs_of("mqa", [float("nan"), float("nan")])
    found = compare(ask("mha", "mqa"), [*runs_of("mha", MHA), *mqa])
    assert difference(found) is None
    assert "no loss on record" not in rendered(found)  # nothing to set beside it: the table is left out
    found = compare(ask("mha", "mqa", "gqa"), [*runs_of("mha", MHA), *mqa, *runs_of("gqa", NOISY)])
    assert "no loss on record" in folded(rendered(found))


def test_json_holds_every_statistic_raw(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE)]
    windows = windows_of([(run, run.metrics["val/loss"]) for run in runs])
    comparison = compare(ask("mha", "mqa"), runs, windows=windows)
    table = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    assert table["conditions"]["seeds_equal"] is True
    baseline, mqa = (row["statistics"] for row in table["rows"])
    assert baseline["difference"] is None
    assert baseline["ci95"][0] < np.mean(MHA) < baseline["ci95"][1]
    found = mqa["difference"]
    one = difference(comparison)
    assert (found["delta"], found["p_t"], found["p_holm"]) == (one.delta, one.test.p, one.p_holm)
    assert found["ci95"] == [one.test.delta - one.test.half_width, one.test.delta + one.test.half_width]
    assert (found["method"], found["n"], found["df"], found["verdict"]) == ("paired", 4, 3, "worse")
    assert found["p_permutation"] == 2 / 16
    assert found["seeds_needed"] == 3
    assert found["evaluation_noise"]["windows"] == 64
