import json
import math

import pytest

from vgpt.errors import UsageError, VgptError
from vgpt.report.as_json import as_json
from vgpt.report.comparison import compare
from vgpt.tracking.histories import History


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


def standings(found):
    return {label: (ones[0].step, ones[0].tokens) for label, ones in found.standings.items()}


def test_at_equal_tokens_each_run_counts_with_its_last_evaluation_by_then(ask, runs, course):
    found = at(ask, runs, course, at_tokens="4999")
    assert standings(found) == {"mha": (400, 4000), "mqa": (400, 4000)}
    expected = 2.01 + 3 * (math.exp(-2) - math.exp(-5))
    assert found.rows[0].runs[0].metrics["val/loss"] == pytest.approx(expected)
    assert found.rows[0].runs[0].metrics["val/perplexity"] == pytest.approx(math.exp(expected))
    assert found.rows[0].runs[0].metrics["val/loss_se"] == 0.01
    assert "val/bits_per_byte" not in found.rows[0].runs[0].metrics  # the final one would be another evaluation's
    assert found.statistics[1].difference.delta == pytest.approx(0.1)
    assert found.audit.equal


def test_an_evaluation_at_the_very_point_counts(ask, runs, course):
    assert standings(at(ask, runs, course, at_tokens="5000"))["mha"] == (500, 5000)
    assert standings(at(ask, runs, course, at_flops="5e6")) == {"mha": (500, 5000), "mqa": (1000, 10_000)}


def test_at_equal_flops_and_at_equal_time_the_cheaper_variant_has_seen_more(ask, runs, course):
    assert standings(at(ask, runs, course, at_flops="3e6")) == {"mha": (300, 3000), "mqa": (600, 6000)}
    assert standings(at(ask, runs, course, at_seconds="4.4")) == {"mha": (400, 4000), "mqa": (800, 8000)}


def test_a_point_that_a_run_never_reached_is_refused_with_the_last_common_one(ask, runs, course):
    with pytest.raises(VgptError, match=r"not all runs came as far as 8M training FLOPs: mqa-s1.*ended at 5M") as error:
        at(ask, runs, course, at_flops="8e6")
    assert error.value.hint == "All runs came as far as --at-flops 5e+06."
    assert at(ask, runs, course, at_flops="5e+06").standings
    with pytest.raises(VgptError, match="All runs came as far as --at-tokens 10000"):
        at(ask, runs, course, at_tokens="10001")


def test_a_point_before_the_first_evaluation_is_refused_with_the_first_common_one(ask, runs, course):
    with pytest.raises(VgptError, match="had not been evaluated yet") as error:
        at(ask, runs, course, at_seconds="0.6")
    assert "From --at-seconds 1 on" in error.value.hint
    assert at(ask, runs, course, at_seconds="1").standings


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


def test_json_tells_the_point_and_what_each_run_had_there(ask, runs, course):
    table = json.loads(json.dumps(as_json(at(ask, runs, course, at_flops="3e6"))))
    assert table["milestone"] == {"axis": "flops", "amount": 3e6}
    (first, *_) = table["rows"][1]["at_milestone"]
    assert (first["step"], first["tokens"], first["flops"], first["seconds"]) == (600, 6000, 3e6, 3.0)
    assert as_json(compare(ask("mha"), runs))["milestone"] is None
