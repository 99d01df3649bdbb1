"""The speed of a run from its log lines: median, spread, warm-up, resumes."""

import random

import numpy as np
import pytest

from vgpt.tracking.journal import Point
from vgpt.tracking.speed import LEAST, logged_speed, recorded_speed, speed_of_points, speed_of_rates
from vgpt.tracking.tracker import open_tracker


def test_median_and_percentiles_are_numpys_of_all_but_the_first_tenth():
    drawn = random.Random(0)
    rates = {10 * number: 1000 + drawn.random() for number in range(1, 41)}
    found = speed_of_rates(rates)
    kept = list(rates.values())[4:]
    assert (found.median, found.low, found.high) == pytest.approx(
        (np.median(kept), np.percentile(kept, 5), np.percentile(kept, 95)), rel=1e-12
    )
    assert found.intervals == 36


def test_a_slow_start_and_one_stall_do_not_move_the_speed():
    rates = dict.fromkeys(range(10, 210, 10), 1000.0) | {10: 5.0, 110: 3.0}
    found = speed_of_rates(rates)
    assert found.median == 1000
    assert found.high == 1000


def test_the_first_interval_is_warm_up_of_a_short_run_too():
    assert speed_of_rates({1: 10.0, 2: 100.0, 3: 102.0}).median == 101


def test_a_run_of_one_interval_has_its_rate_and_no_spread():
    found = speed_of_rates({7: 50.0})
    assert (found.median, found.low, found.high, found.intervals) == (50, None, None, 1)
    assert found.metrics() == {"speed/tokens_per_second": 50, "speed/intervals": 1}
    assert speed_of_rates({}) is None


@pytest.mark.parametrize("count", [LEAST, LEAST + 1])
def test_a_spread_takes_five_intervals(count):
    found = speed_of_rates({step: 100.0 + step for step in range(1, count + 1)})  # of which the first is left out
    assert (found.low is None) == (found.high is None) == (count == LEAST)


def test_the_short_interval_at_the_end_is_left_out():
    rates = dict.fromkeys(range(10, 110, 10), 100.0) | {101: 9.0}
    assert speed_of_rates(rates).low == 100


def test_the_interval_in_which_a_run_was_resumed_is_left_out_and_of_repeated_steps_the_last_counts():
    points = [Point(step, 0, {"perf/tokens_per_second": 100.0}) for step in (10, 20, 30, 40, 50, 60, 70)]
    points += [Point(step, 0, {"perf/tokens_per_second": 20.0 if step == 60 else 100.0}) for step in (60, 70, 80)]
    assert speed_of_points(points).low < 100
    found = speed_of_points(points, begun=[0, 55])
    assert (found.median, found.low, found.intervals) == (100, 100, 6)


def test_a_journal_tells_the_speed_of_all_processes_of_a_run(start):
    def train(steps, resume_step=None, **end):
        tracker = open_tracker(start("fast"), kind="journal", resume_step=resume_step, notify=pytest.fail)
        for step in steps:
            rate = 10.0 if step == (resume_step or 0) + 1 else 100.0 + step
            tracker.log({"perf/tokens_per_second": rate}, step=step)
        tracker.finish("killed" if not end else "finished", end)

    train(range(1, 31))
    train(range(21, 41), resume_step=20, a=1.0)
    found = logged_speed(start("fast").run_dir)
    kept = [100.0 + step for step in range(5, 41) if step != 21]
    assert (found.intervals, found.median) == (35, np.median(kept))
    assert found.low == pytest.approx(np.percentile(kept, 5))


def test_an_old_record_tells_its_mean_and_says_that_it_is_one():
    assert recorded_speed({"train/tokens": 900.0, "train/seconds": 3.0, "perf/tokens_per_second": 77.0}) == (300, False)
    assert recorded_speed({"perf/tokens_per_second": 77.0, "train/tokens": 9.0}) == (77, False)
    assert recorded_speed({"speed/tokens_per_second": 5.0, "perf/tokens_per_second": 77.0}) == (5, True)
