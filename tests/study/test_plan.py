import dataclasses
from pathlib import Path

import pytest

from vgpt.compare.choose import compare
from vgpt.formatting import UNKNOWN, format_duration
from vgpt.study.estimate import ThroughputEstimate, tokens_left
from vgpt.study.plan import make_plan

TOKENS = 400 * 16 * 128  # of a run of the demo preset


@pytest.fixture
def here(make_run):
    """Make a run that was trained on this machine in a known time."""

    def make(attn, seconds, **settings):
        run = make_run(attn, settings=settings, metrics={"train/seconds": seconds})
        return dataclasses.replace(run, directory=Path("runs") / run.run_name)

    return make


def plan_of(ask, runs, *words, **typed):
    return make_plan([compare(ask(*words, preset="demo", **typed), runs)], ThroughputEstimate(runs))


def test_the_time_of_missing_runs_is_that_of_other_seeds_of_the_same_variant(here, ask):
    plan = plan_of(ask, [here("mha", 100), here("mqa", 50)], "mha", "mqa", seeds="3")
    assert [(item.label, item.there, item.missing, item.seconds) for item in plan.items] == [
        ("mha", 1, 2, pytest.approx(200)),
        ("mqa", 1, 2, pytest.approx(100)),
    ]
    assert plan.seconds == pytest.approx(300)
    assert plan.sentence() == "plan: 2 runs exist, 4 are missing; time: about 5 min"


def test_a_run_is_known_however_its_record_spells_the_same_settings(here, ask):
    # A record has its settings in order of the alphabet, and whether it was compiled, which nobody had said.
    runs = [here("linear", 100, compile=False), here("sparse", 300, compile=False), here("mha", 50, compile=False)]
    plan = plan_of(ask, runs, "linear", "sparse", seeds="2")
    assert [(item.there, item.missing, item.seconds) for item in plan.items] == [
        (1, 1, pytest.approx(100)),
        (1, 1, pytest.approx(300)),
    ]


def test_the_time_is_scaled_by_tokens_whatever_the_learning_rate(here, ask):
    plan = plan_of(ask, [here("mha", 100)], "mha", lr="0.1", max_tokens=str(TOKENS // 4))
    assert plan.seconds == pytest.approx(25)


def test_a_new_variant_is_taken_to_be_as_fast_as_the_others_under_the_same_conditions(here, ask):
    runs = [here("mha", 100), here("mqa", 60), here("mqa", 900, n_layer=8)]
    assert plan_of(ask, runs, "gqa").seconds == pytest.approx(80)


def test_other_positions_are_taken_to_be_as_fast(here, ask):
    runs = [here("mha", 100), here("mqa", 60)]
    assert plan_of(ask, runs, "mha", pos="learned").seconds == pytest.approx(100)
    assert plan_of(ask, [*runs, here("mha", 90, pos="learned")], "mha", pos="learned", seed="7").seconds == 90


def test_the_time_is_unknown_where_nothing_like_it_was_trained_on_this_machine(here, make_run, ask):
    elsewhere = make_run("mha", settings={"seed": 1}, metrics={"train/seconds": 3.0})
    plan = plan_of(ask, [elsewhere, here("mha", 100, batch_size=8)], "mha")
    assert plan.seconds is None
    assert plan.sentence().endswith(f"time: {UNKNOWN}")


def test_what_is_known_of_the_time_is_told_where_the_rest_is_not(here, ask):
    runs = [here("mha", 100)]
    parts = [compare(ask("mha", preset="demo", seed="7", n_layer=layers), runs) for layers in ("4", "8", "12")]
    plan = make_plan(parts, ThroughputEstimate(runs))
    assert plan.seconds is None
    assert plan.sentence().endswith(f"time: about 2 min for 1 of them, that of the others {UNKNOWN}")


def test_what_was_timed_during_the_study_counts_more_than_the_record(here, ask):
    runs = [here("mha", 100)]
    (wanted,) = compare(ask("mha", preset="demo", seed="7"), runs).missing
    throughput = ThroughputEstimate(runs)
    throughput.note(wanted, 120.0, TOKENS // 2)
    assert throughput.seconds(wanted) == pytest.approx(240)


def test_a_half_trained_run_is_counted_as_begun_and_its_rest_alone_is_expected(here, ask):
    runs = [here("mha", 100)]
    (wanted,) = compare(ask("mha", preset="demo", seed="7"), runs).missing
    directory = wanted.config.directory
    directory.mkdir(parents=True)
    (directory / "settings.json").write_text(wanted.config.model_dump_json())
    (directory / "metrics.jsonl").write_text('{"step": 300, "time": 1, "metrics": {"train/loss": 2.0}}\n')
    assert tokens_left(wanted) == TOKENS // 4
    (item,) = plan_of(ask, runs, "mha", seed="7").items
    assert (item.begun, item.seconds) == (1, pytest.approx(25))


def test_a_run_that_two_comparisons_share_is_trained_once(ask):
    twice = [compare(ask("mha", "mqa", preset="demo", match=rule), []) for rule in ("none", "params")]
    plan = make_plan(twice, ThroughputEstimate([]))
    assert [wanted.label for wanted in plan.missing] == ["mha", "mqa", "mqa"]
    assert [item.missing for item in plan.items] == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")]
)
def test_durations_are_shown_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text
