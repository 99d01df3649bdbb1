"""Statistics in a comparison: who is tested against whom, when a verdict is given, and how it is shown."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.report.as_json import as_json
from vgpt.report.formats import as_csv, as_markdown
from vgpt.report.html.page import ReportSection, as_html
from vgpt.report.tables import tables
from vgpt.tracking.record import WindowLosses


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
    assert (found.method, found.seeds, found.p_permutation) == ("unpaired", 4, None)
    assert 3 < found.test.df <= 6
    assert as_json(comparison)["conditions"]["seeds_equal"] is False
    assert "No shared seeds: difference of means, by Welch's test" in folded(rendered(comparison))


def test_one_run_gives_a_difference_and_no_verdict(runs_of, ask):
    for baseline in (MHA[:1], MHA):
        found = difference(compare(ask("mha", "mqa"), [*runs_of("mha", baseline), *runs_of("mqa", [2.41])]))
        assert (found.method, found.seeds, found.test, found.judged) == ("single", 1, None, None)
        assert found.delta == pytest.approx(0.1)  # to the baseline's run of the same seed
        assert found.verdict == "n=1: no verdict"


def test_verdict_interval_and_adjusted_p_say_the_same(runs_of, ask):
    generator = np.random.default_rng(4)
    seen = set()
    for _ in range(60):
        losses = 2.3 + generator.normal(0, 0.02, 4)
        runs = [*runs_of("mha", losses)]
        for attn in ("mqa", "gqa", "gqa:n_kv_head=4"):
            runs += runs_of(attn, losses + generator.normal(0, 0.01, 4) + generator.choice([0, 0.02]))
        found = compare(ask("mha", "mqa", "gqa:n_kv_head=2", "gqa:n_kv_head=4"), runs)
        for one in (difference(found, row) for row in (1, 2, 3)):
            shown = one.verdict in ("better", "worse")
            assert shown == (one.judged.p < 0.05) == (abs(one.delta) > one.half_width)
            seen.add(shown)
    assert seen == {True, False}


def test_rows_without_a_verdict_make_nobodys_interval_wider(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE)]
    alone = difference(compare(ask("mha", "mqa"), runs))
    assert alone.half_width == pytest.approx(alone.test.half_width)  # one row: Student's test
    beside = [*runs_of("gqa", NOISY, settings={"lr": 0.5}), *runs_of("gqa:n_kv_head=4", NOISY[:2])]
    found = compare(ask("mha", "mqa", "gqa:n_kv_head=2", "gqa:n_kv_head=4"), [*runs, *beside])
    assert difference(found, 1).judged == alone.judged
    assert [difference(found, row).judged for row in (2, 3)] == [None, None]


def test_one_difference_stands_in_every_table_and_format(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", [2.345, 2.37, 2.9], seeds=[3, 4, 99])]
    found = compare(ask("mha", "mqa"), runs)
    assert difference(found).delta == pytest.approx(0.0525)
    lines = [line for line in rendered(found, 140).splitlines() if line.startswith("mqa")]
    assert ["+0.0525" in line for line in lines] == [True, False, True, False, False, False]
    assert as_json(found)["rows"][1]["metrics"]["val/loss"]["delta"] == difference(found).delta
    (line,) = [line for line in as_csv(found, ["delta"]).splitlines() if line.startswith("mqa")]
    assert float(line.split(",")[1]) == difference(found).delta


@pytest.fixture
def half_diverged(runs_of, make_run, ask):
    """Five seeds of mqa were tried, two diverged; those that are left are worse than the baseline."""
    lost = [make_run("mqa", settings={"seed": seed}, status="diverged", metrics={"val/loss": 9.0}) for seed in (4, 5)]
    runs = [*runs_of("mha", [*MHA, 2.30]), *runs_of("mqa", WORSE[:3]), *lost]
    return runs, compare(ask("mha", "mqa"), runs)


def test_a_row_with_diverged_seeds_gets_no_verdict_and_says_so_everywhere(half_diverged):
    _, found = half_diverged
    one = difference(found)
    assert (one.verdict, one.judged, one.half_width) == ("diverged 2/5: no verdict", None, None)
    assert [run.tags["vgpt.seed"] for run in found.rows[1].failed] == ["4", "5"]
    text = folded(rendered(found))
    assert text.count("diverged 2/5") >= 2
    assert "Seeds that diverged are in no mean" in text
    row = as_json(found)["rows"][1]
    assert row["statistics"]["difference"]["verdict"] == "diverged 2/5: no verdict"
    assert row["statistics"]["difference"]["ci95"] is None
    assert [(run["seed"], run["status"]) for run in row["failed"]] == [("4", "diverged"), ("5", "diverged")]
    (line,) = list(csv.DictReader(io.StringIO(as_csv(found))))[1:]
    assert (line["verdict"], line["flags"]) == ("diverged 2/5: no verdict", "diverged 2/5")
    assert "diverged 2/5" in as_markdown(found).replace("\\", "")
    assert "mqa: diverged 2/5, no verdict." in as_html([ReportSection(found, [])], command="vgpt", made=0)


def test_the_same_holds_for_given_conditions(half_diverged, ask):
    runs, _ = half_diverged
    found = compare(ask("mha", "mqa", preset="demo", seed="1", seeds="5"), runs)
    assert difference(found).verdict == "diverged 2/5: no verdict"
    assert len(found.missing) == 2


def test_a_diverged_seed_that_was_finished_by_another_run_is_not_lost_but_was_drawn_twice(half_diverged, runs_of, ask):
    runs, _ = half_diverged
    found = compare(ask("mha", "mqa"), [*runs, *runs_of("mqa", [2.37, 2.35], seeds=[4, 5])])
    assert found.rows[1].failed == ()
    assert found.audit.flagged == {"mqa": ("trained",)}


def test_a_diverged_seed_under_other_conditions_is_none_of_this_row(half_diverged, make_run, ask):
    runs, _ = half_diverged
    odd = make_run("mqa", settings={"seed": 6, "lr": 0.5}, status="diverged")
    assert difference(compare(ask("mha", "mqa"), [*runs, odd])).verdict == "diverged 2/5: no verdict"


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_finished_run_without_a_finite_loss_is_a_lost_seed(runs_of, ask, loss):
    found = compare(ask("mha", "mqa"), [*runs_of("mha", MHA), *runs_of("mqa", [*WORSE[:3], loss])])
    assert difference(found).verdict == "diverged 1/4: no verdict"


def test_a_diverged_seed_of_the_baseline_leaves_nobody_a_verdict(runs_of, make_run, ask):
    runs = [*runs_of("mha", MHA[:3]), make_run("mha", settings={"seed": 4}, status="diverged")]
    found = compare(ask("mha", "mqa"), [*runs, *runs_of("mqa", WORSE)])
    assert difference(found).verdict == "baseline diverged 1/4: no verdict"
    assert difference(compare(ask("mha", "mqa", force=True), [*runs, *runs_of("mqa", WORSE)])).judged is None


def test_dropping_diverged_seeds_makes_nobody_better_by_luck(runs_of, make_run, ask):
    """The worst two of eight diverge: their survivors look better, and get no verdict for it."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        losses = sorted(generator.normal(2.3, 0.02, 8))
        lost = [make_run("mqa", settings={"seed": seed}, status="diverged") for seed in (7, 8)]
        runs = [*runs_of("mha", generator.normal(2.3, 0.02, 8)), *runs_of("mqa", losses[:6]), *lost]
        assert difference(compare(ask("mha", "mqa"), runs)).verdict == "diverged 2/8: no verdict"


def test_where_nothing_is_shown_stands_what_would_have_been(runs_of, ask):
    found = compare(ask("mha", "gqa"), [*runs_of("mha", MHA), *runs_of("gqa", NOISY)])
    one = difference(found)
    assert one.verdict == "no difference shown"
    error = np.std(np.subtract(NOISY, MHA), ddof=1) / 2
    # 97.5% and 80% points of Student's t for 3 degrees of freedom, from a printed table.
    assert one.judged.detectable == pytest.approx((3.182 + 0.978) * error, rel=1e-3)
    assert f" {one.judged.detectable:.4f} " in rendered(found)
    assert "n to show" not in folded(rendered(found))


def test_unequal_conditions_get_no_verdict_unless_forced_and_then_it_is_written_on_the_table(runs_of, ask):
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE, settings={"lr": 0.5}), *runs_of("gqa", WORSE)]
    found = compare(ask("mha", "mqa", "gqa"), runs)
    verdicts = [difference(found, row).verdict for row in (1, 2)]
    assert verdicts == ["unequal conditions: no verdict", "worse"]
    assert "force" not in rendered(found).lower()
    forced = compare(ask("mha", "mqa", "gqa", force=True), runs)
    assert [difference(forced, row).verdict for row in (1, 2)] == ["worse", "worse"]
    text = rendered(forced)
    assert "Differences to mha in validation loss (--force: across unequal conditions)" in folded(text)
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
    from vgpt.compare.audit.conditions import audit
    from vgpt.compare.rows import make_row
    from vgpt.compare.statistics.differences import row_statistics

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
    assert wrong / 2_000 >= 0.04


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


def test_noise_of_evaluation_that_all_seeds_share_is_in_the_verdict(runs_of, ask):
    """Every seed agrees on these windows that mqa is worse; on other text it might be better."""
    runs = [*runs_of("mha", MHA), *runs_of("mqa", WORSE)]
    assert difference(compare(ask("mha", "mqa"), runs)).verdict == "worse"
    documents = np.repeat(np.arange(16), 4)

    def windows(spread):
        effect = np.random.default_rng(3).normal(0, spread, 16)[documents]
        effect -= effect.mean()
        return lambda run: WindowLosses(
            400,
            "64x128:aaaa",
            tuple(run.metrics["val/loss"] + effect * (run.tags["vgpt.attn"] == "mqa")),
            (),
            tuple(documents.tolist()),
        )

    slight, great = (compare(ask("mha", "mqa"), runs, windows=windows(spread)) for spread in (0.01, 0.2))
    assert [difference(found).verdict for found in (slight, great)] == ["worse", "no difference shown"]
    one = difference(great)
    assert (one.noise.kind, one.noise.clusters, one.noise.df) == ("documents", 16, 15)
    assert one.noise.beyond_seeds == pytest.approx(one.noise.se)
    # Weighted critical values: Student's for 3 and for 15 degrees of freedom, from a printed table.
    seeds, text = one.test.error**2, one.noise.se**2
    assert one.half_width == pytest.approx((3.182 * seeds + 2.131 * text) / (seeds + text) ** 0.5, rel=1e-3)
    assert "clustered by document" in folded(rendered(great))
    assert as_json(great)["rows"][1]["statistics"]["loss_se_clusters"] == "documents"


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
    assert found.statistics[1].lost == "diverged 2/2"
    assert "Differences to" not in rendered(found)  # nothing to set beside it: the table is left out
    found = compare(ask("mha", "mqa", "gqa"), [*runs_of("mha", MHA), *mqa, *runs_of("gqa", NOISY)])
    assert folded(rendered(found)).count("diverged 2/2") == 2


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
    assert (found["delta"], found["p_t"], found["p_adjusted"]) == (one.delta, one.test.p, one.judged.p)
    assert found["ci95"] == [one.delta - one.half_width, one.delta + one.half_width]
    assert one.half_width > one.test.half_width  # the noise of the evaluation is in it too
    assert (found["method"], found["n"], found["df"], found["verdict"]) == ("paired", 4, 3, "worse")
    assert found["p_permutation"] == 2 / 16
    assert "seeds_needed" not in found
    assert (found["ci95_is_joint"], found["family_rows"]) == (True, 1)
    assert found["evaluation_noise"]["windows"] == 64
