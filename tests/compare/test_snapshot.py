"""Comparisons before the end, at equal tokens, FLOPs or time: what stands for the point, and when nothing may."""

import io
import json
import math

import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.errors import UsageError, VgptError
from vgpt.report.as_json import as_json
from vgpt.report.figures.costs import draw_tradeoffs
from vgpt.report.formats import as_markdown
from vgpt.report.tables import tables
from vgpt.tracking.histories import History, HistoryReader, Reading
from vgpt.tracking.record import RunStart
from vgpt.tracking.store import read_local_runs
from vgpt.tracking.tracker import open_tracker


@pytest.fixture
def runs(make_run):
    """Two variants of three seeds each; mqa costs half the FLOPs and runs at twice the speed."""
    cheap = {"flops/train_per_token": 500.0, "perf/tokens_per_second": 2000.0}
    dear = {"flops/train_per_token": 1000.0, "perf/tokens_per_second": 1000.0}
    sizes = {"train/tokens": 10_000.0}
    return [
        make_run(attn, settings={"seed": seed}, metrics=sizes | costs | {"val/loss": loss + 0.01 * seed})
        for attn, costs, loss in (("mha", dear, 2.0), ("mqa", cheap, 2.1))
        for seed in (1, 2, 3)
    ]


def at(ask, runs, course, **point):
    return compare(ask("mha", "mqa", **point), runs, histories=course)


def snapshots(found):
    return {label: (ones[0].before, ones[0].after, ones[0].tokens) for label, ones in found.snapshots.items()}


def rendered(found, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(found):
        console.print(part)
    return console.file.getvalue()


def losses(row):
    return [run.metrics["val/loss"] for run in row.runs]


def test_between_two_evaluations_the_loss_is_read_by_proportion_in_the_logarithm(ask, runs, course):
    found = at(ask, runs, course, at_tokens="4500")
    assert snapshots(found) == {"mha": (400, 500, 4500), "mqa": (400, 500, 4500)}
    before, after = (2.01 + 3 * (math.exp(-0.5 * part) - math.exp(-5)) for part in (4, 5))
    expected = before + (after - before) * math.log(4500 / 4000) / math.log(5000 / 4000)
    assert losses(found.rows[0])[0] == pytest.approx(expected)
    assert found.rows[0].runs[0].metrics["val/perplexity"] == pytest.approx(math.exp(expected))
    assert found.rows[0].runs[0].metrics["val/loss_se"] == pytest.approx(0.01)
    assert "val/bits_per_byte" not in found.rows[0].runs[0].metrics  # the final one would be another evaluation's
    assert found.statistics[1].difference.delta == pytest.approx(0.1)
    assert found.audit.equal


@pytest.mark.parametrize(("axis", "point"), [("at_tokens", 2345), ("at_flops", 1.7e6), ("at_seconds", 3.3)])
def test_a_loss_linear_in_the_logarithm_is_read_without_any_error(ask, runs, axis, point):
    """loss = a + b * log(tokens), evaluated at other tokens in each run; the other axes are in proportion to them."""

    def course(run):
        seed, rate = int(run.tags["vgpt.seed"]), run.metrics["perf/tokens_per_second"]
        places = [round(170 * seed * 1.7**number) for number in range(12)]
        readings = tuple(
            Reading(n + 1, 9.0 - 0.7 * math.log(tokens), tokens, tokens / rate) for n, tokens in enumerate(places)
        )
        others = {
            name: {one.step: 0.1 * one.value for one in readings} for name in ("val/loss_se", "val/bits_per_byte")
        }
        return History((), readings, others)

    found = at(ask, runs, course, **{axis: str(point)})
    per_unit = {"at_tokens": (1, 1), "at_flops": (1000, 500), "at_seconds": (1 / 1000, 1 / 2000)}[axis]
    for row, unit in zip(found.rows, per_unit, strict=True):
        expected = 9.0 - 0.7 * math.log(point / unit)
        assert losses(row) == pytest.approx([expected] * 3, abs=1e-12)
        for run in row.runs:
            assert run.metrics["val/loss_se"] == run.metrics["val/bits_per_byte"] == pytest.approx(0.1 * expected)
        assert [one.tokens for one in found.snapshots[row.label]] == pytest.approx([point / unit] * 3)
    assert not found.unequal_points


def test_an_evaluation_at_the_very_point_counts_as_it_is(ask, runs, course):
    found = at(ask, runs, course, at_tokens="5000")
    assert snapshots(found)["mha"] == (500, 500, 5000)
    assert losses(found.rows[0])[0] == 2.01 + 3 * (math.exp(-2.5) - math.exp(-5))
    assert snapshots(at(ask, runs, course, at_flops="5e6")) == {"mha": (500, 500, 5000), "mqa": (1000, 1000, 10_000)}


def test_at_equal_flops_and_at_equal_time_the_cheaper_variant_has_seen_more(ask, runs, course):
    found = at(ask, runs, course, at_flops="3e6")
    assert snapshots(found) == {"mha": (300, 300, 3000), "mqa": (600, 600, 6000)}
    found = snapshots(at(ask, runs, course, at_seconds="4.4"))
    assert found == {"mha": (400, 500, pytest.approx(4400)), "mqa": (800, 900, pytest.approx(8800))}


@pytest.fixture
def attacked(make_run, tmp_path):
    """Journals of two variants of the same curve over tokens, of which one costs 2% more FLOPs and gains 0.05.

    Evaluated every 100 steps: by 2.43e12 FLOPs the last evaluation of the dearer one lies at half of the other's, by
    2.48e12 at as much.
    """

    def write(attn, flops_per_token, change):
        for seed in (1, 2, 3):
            made = make_run(attn, settings={"seed": seed}, metrics={"flops/train_per_token": flops_per_token})
            start = RunStart(f"{attn}-{seed}", tmp_path / "runs" / f"{attn}-{seed}", "vgpt", made.params, made.tags)
            start.run_dir.mkdir(parents=True)
            tracker = open_tracker(start, kind="journal", resume_step=None, notify=pytest.fail)
            for step in (100, 200, 300, 400):
                tokens = step * 2048
                loss = 12.0 - 0.64 * math.log(tokens) + change + 0.001 * seed
                tracker.log({"val/loss": loss, "val/loss_se": 0.02}, step=step, tokens=tokens, seconds=step / 10)
            tracker.finish(
                "finished", {"flops/train_per_token": flops_per_token, "train/tokens": 400 * 2048, "train/steps": 400}
            )

    write("mha", 2.417e12 / (200 * 2048), 0.0)
    write("mqa", 2.478e12 / (200 * 2048), -0.05)
    return read_local_runs(tmp_path / "runs")


@pytest.mark.parametrize("point", ["2.43e12", "2.48e12"])
def test_two_near_points_give_one_answer(ask, attacked, point):
    """By last evaluations mqa would be worse by 0.39 at the first point and better by 0.05 at the second."""
    found = compare(ask("mha", "mqa", at_flops=point), attacked, histories=HistoryReader(mlflow=False))
    truth = -0.05 + 0.64 * math.log(2.478 / 2.417)  # the dearer one has seen fewer tokens
    assert found.statistics[1].difference.delta == pytest.approx(truth, abs=1e-9)
    assert found.statistics[1].difference.verdict == "better"


def test_a_run_that_ended_before_the_point_is_shown_without_a_verdict(ask, runs, course):
    found = at(ask, runs, course, at_flops="8e6", force="true")
    assert found.statistics[1].difference.verdict == "unequal points: no verdict"
    assert found.unequal_points.keys() == {"mqa"}
    assert snapshots(found)["mqa"] == (1000, None, 10_000)
    text = " ".join(rendered(found).split())
    assert "mqa-s1" in text
    assert "ended at 5M training FLOPs, last evaluated at 5M training FLOPs" in text
    assert "≠ point" in text
    assert "unequal points: no verdict" in as_markdown(found)
    row = json.loads(json.dumps(as_json(found)))["rows"][1]
    assert "ended at 5M" in row["unequal_point"]
    assert row["statistics"]["difference"]["verdict"] == "unequal points: no verdict"
    assert "mqa" not in draw_tradeoffs(found).alt


def test_a_run_that_was_not_evaluated_by_the_point_has_no_verdict_and_hears_of_an_interval_that_will_do(
    ask, runs, course
):
    found = at(ask, runs, course, at_seconds="0.6")
    assert found.rows[0].runs[0].metrics["val/loss"] == pytest.approx(2.01 + 3 * (math.exp(-0.5) - math.exp(-5)))
    assert snapshots(found)["mha"] == (None, 100, 1000)
    assert snapshots(found)["mqa"] == (100, 200, 1200)
    assert found.statistics[1].difference.verdict == "unequal points: no verdict"  # its own point is no help
    assert found.unequal_points["mqa"] == "mha, the baseline, is not there"
    assert "--eval-interval 60 evaluates a run by then" in found.unequal_points["mha"]


def test_what_stands_within_a_hundredth_of_the_point_may_stand_for_it(ask, runs, course):
    found = at(ask, runs, course, at_flops="5.04e6")
    assert snapshots(found)["mqa"] == (1000, None, 10_000)
    assert not found.unequal_points
    assert at(ask, runs, course, at_flops="5.06e6").unequal_points


def test_two_rows_on_either_side_of_the_point_may_not_lie_farther_apart(ask, runs, course):
    def shifted(run):
        """mha ends 0.9% before the point and mqa begins 0.9% after it."""
        first = 991 if run.tags["vgpt.attn"] == "mha" else 1009
        return History((), (Reading(1, 2.0, first, 1.0),), {})

    found = at(ask, runs, shifted, at_tokens="1000")
    assert found.unequal_points == {"mqa": "what stands for the point lies 1.8% apart in it and in the baseline"}


def test_a_point_that_no_row_reached_is_refused_with_the_last_common_one(ask, runs, course):
    with pytest.raises(VgptError, match=r"ended before 12k tokens: mha-s1.*ended at 10k tokens") as error:
        at(ask, runs, course, at_tokens="12000")
    assert error.value.hint == "All runs came as far as --at-tokens 10000."
    with pytest.raises(VgptError, match=r"All runs came as far as --at-flops 5e\+06"):
        at(ask, runs, course, at_flops="1.2e7")
    assert not at(ask, runs, course, at_flops="5e+06").unequal_points


def test_a_point_before_all_first_evaluations_is_refused_with_the_first_common_one(ask, runs, course):
    with pytest.raises(VgptError, match="had not been evaluated yet") as error:
        at(ask, runs, course, at_seconds="0.3")
    assert "From --at-seconds 1 on" in error.value.hint
    assert not at(ask, runs, course, at_seconds="1").unequal_points


def test_an_evaluation_before_the_first_step_is_no_end_of_a_logarithm(ask, runs):
    readings = (Reading(0, 9.0, 0, 0.0), Reading(100, 3.0, 1000, 1.0))
    found = at(ask, runs, lambda run: History((), readings, {}), at_tokens="1000")
    assert losses(found.rows[0]) == [3.0] * 3
    with pytest.raises(VgptError, match="had not been evaluated yet"):
        at(ask, runs, lambda run: History((), readings, {}), at_tokens="500")


def test_runs_without_a_course_are_refused_by_name(ask, runs):
    with pytest.raises(VgptError, match="no tokens are on record along the course of mha-s1"):
        at(ask, runs, lambda run: History(), at_tokens="100")


def test_two_points_at_once_are_refused(ask):
    with pytest.raises(UsageError, match="--at-tokens and --at-flops name different points"):
        ask("mha", at_tokens="5", at_flops="5")


def test_the_final_windows_say_nothing_of_an_earlier_evaluation(ask, runs, course):
    asked = []
    found = compare(ask("mha", "mqa", at_tokens="5000"), runs, histories=course, windows=asked.append)
    assert not asked
    assert found.statistics[1].difference.noise is None


def test_the_table_says_between_which_evaluations_a_loss_was_read_and_that_it_is_an_estimate(ask, runs, course):
    text = rendered(at(ask, runs, course, at_tokens="4500"))
    assert max(map(len, text.splitlines())) <= 80
    (line, *_) = [line.split() for line in text.splitlines() if line.startswith("mha ")]
    assert line[:6] == ["mha", "step", "400", "step", "500", "4.5k"]
    assert "Losses at 4.5k tokens are estimates" in " ".join(text.split())


def test_json_tells_the_point_and_what_each_run_had_there(ask, runs, course):
    table = json.loads(json.dumps(as_json(at(ask, runs, course, at_flops="3.1e6"))))
    assert table["milestone"] == {"axis": "flops", "amount": 3.1e6}
    (first, *_) = table["rows"][1]["take_snapshots"]
    assert (first["evaluated_before"], first["evaluated_after"]) == (600, 700)
    assert first["amount"] == first["flops"] == pytest.approx(3.1e6)
    assert (first["step"], first["tokens"], first["seconds"]) == (pytest.approx(620), pytest.approx(6200), 3.1)
    assert table["rows"][1]["unequal_point"] is None
    assert as_json(compare(ask("mha"), runs))["milestone"] is None
