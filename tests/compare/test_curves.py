import pytest

from vgpt.compare.choose import compare
from vgpt.compare.curves import curve
from vgpt.compare.rows import make_row
from vgpt.report.curve_tables import curves_table
from vgpt.report.layout import sparkline
from vgpt.tracking.histories import History, Reading


def planted(lines):
    """Find histories by seed: (tokens, seconds, loss) of each evaluation."""
    return lambda run: History(
        evaluations=tuple(Reading(i, loss, t, s) for i, (t, s, loss) in enumerate(lines[run.tags["vgpt.seed"]]))
    )


def test_the_band_of_seeds_reaches_from_the_lowest_to_the_highest(make_run):
    row = make_row([make_run("mha", settings={"seed": seed}) for seed in (1, 2)])
    lines = {"1": [(10, 1.0, 5.0), (20, 2.0, 4.0)], "2": [(10, 1.0, 6.0), (20, 2.0, 3.0)]}
    found = curve(row, planted(lines), "tokens")
    assert found is not None
    assert (found.x, found.mean, found.low, found.high) == ((10, 20), (5.5, 3.5), (5.0, 3.0), (6.0, 4.0))
    assert found.runs == 2


def test_over_time_runs_are_read_between_their_points_as_far_as_all_went(make_run):
    row = make_row([make_run("mha", settings={"seed": seed}) for seed in (1, 2)])
    lines = {"1": [(10, 1.0, 5.0), (20, 2.0, 4.0), (30, 3.0, 3.0)], "2": [(10, 1.0, 6.0), (20, 2.5, 3.0)]}
    found = curve(row, planted(lines), "seconds")
    assert found is not None
    assert found.x == (1.0, 2.0, 2.5)
    assert found.high == pytest.approx((6.0, 4.0, 3.5))  # 6 falls by 3 within 1.5 s


def test_over_time_two_evaluations_of_each_run_are_a_line_however_they_lie(make_run):
    row = make_row([make_run("mha", settings={"seed": seed}) for seed in (1, 2)])
    lines = {"1": [(10, 1.0, 5.0), (20, 3.0, 4.0)], "2": [(10, 1.5, 5.0), (20, 2.5, 4.0)]}
    found = curve(row, planted(lines), "seconds")
    assert found is not None
    assert found.x == (1.5, 2.5)
    assert found.mean == pytest.approx((4.875, 4.125))
    apart = {"1": [(10, 1.0, 5.0), (20, 2.0, 4.0)], "2": [(10, 3.0, 5.0), (20, 4.0, 4.0)]}
    assert curve(row, planted(apart), "seconds") is None


def test_flops_are_tokens_times_the_variants_own_count(make_run):
    row = make_row([make_run("mha", settings={"seed": 1}, metrics={"flops/train_per_token": 7.0})])
    found = curve(row, planted({"1": [(10, 1.0, 5.0), (20, 2.0, 4.0)]}), "flops")
    assert found is not None
    assert found.x == (70.0, 140.0)


def test_a_row_without_courses_has_no_curve(make_run):
    row = make_row([make_run("mha")])
    assert curve(row, lambda run: History(), "tokens") is None


def test_all_rows_of_sparklines_share_one_scale(make_run, ask, course):
    runs = [make_run("mha"), make_run("mqa", metrics={"val/loss": 4.0})]
    table, caption, _ = curves_table(compare(ask("mha", "mqa"), runs), course)
    mha, mqa = table.columns[2].cells
    assert mha.plain[-1] == "▁"
    assert mqa.plain[0] == "█"
    assert "▁" not in mqa.plain
    assert "one scale for all rows" in caption.plain


def test_a_sparkline_within_limits_shows_values_beyond_them_at_the_edge():
    assert sparkline([0.0, 5.0, 10.0, 99.0], 4, low=0.0, high=10.0) == "▁▅██"


def test_without_any_course_sparklines_say_so(make_run, ask):
    text, _ = curves_table(compare(ask("mha"), [make_run("mha")]), lambda run: History())
    assert "No losses along the way" in text.plain
