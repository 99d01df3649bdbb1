"""`vgpt reproduce`: what a report holds is read without faith, trained again and held against the report."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import t

from vgpt.errors import UsageError
from vgpt.report.as_json import as_json
from vgpt.report.html.page import ReportSection, as_html
from vgpt.study.report_data import ReportedRow, chosen_row, read_rows
from vgpt.study.rerun import fresh_directory, further_mean, judge_rerun, plan_rerun
from vgpt.tracking.journal import Journal, Point
from vgpt.tracking.record import RunRecord


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def report(three, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(as_html([ReportSection(three, [])], command="vgpt compare mha gqa mqa", made=0))
    return path


def test_a_page_and_the_json_hold_the_same_rows(report, three, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(as_json(three)))
    rows = read_rows(report)
    assert rows == read_rows(tmp_path / "report.json")
    assert [row.label for row in rows] == ["mha", "gqa:n_kv_head=2", "mqa"]
    assert [[run.seed for run in row.runs] for row in rows] == [[1, 2, 3]] * 3
    for row, found, shown in zip(rows, three.rows, three.statistics, strict=True):
        assert [run.metrics["val/loss"] for run in row.runs] == [run.metrics["val/loss"] for run in found.runs]
        assert row.interval == pytest.approx((shown.interval.low, shown.interval.high), abs=0)


def test_a_row_is_chosen_by_its_label_or_its_variant(report):
    rows = read_rows(report)
    assert chosen_row(rows, "gqa", None) is rows[1]
    assert chosen_row(rows, "gqa:n_kv_head=2", None) is rows[1]
    with pytest.raises(UsageError, match="did you mean 'mqa'"):
        chosen_row(rows, "mqq", None)
    twice = [*rows, replace(rows[0], part="lr = 0.1")]
    with pytest.raises(UsageError, match="several parts"):
        chosen_row(twice, "mha", None)
    assert chosen_row(twice, "mha", "lr = 0.1").part == "lr = 0.1"


def evil_reports():
    run = {"run_name": "a", "seed": "1", "params": {}, "tags": {}, "metrics": {}}
    deep = "[" * 100_000
    yield "empty", ""
    yield "no data", "<!DOCTYPE html><html><body>hello</body></html>"
    yield "torn", '<template id="vgpt-report">{"parts": [{'
    yield "not json", '<template id="vgpt-report">import os</template>'
    yield "nested", f'<template id="vgpt-report">{deep}</template>'
    yield "nested plain", deep
    yield "list", "[1, 2]"
    yield "no rows", '{"parts": [{"rows": []}]}'
    yield "rows of text", '{"rows": "abc"}'
    yield "row of text", '{"rows": ["abc"]}'
    yield "a seed of words", json.dumps({"rows": [{"label": "mha", "runs": [{**run, "seed": "one"}]}]})
    yield "a param that is a table", json.dumps({"rows": [{"label": "mha", "runs": [{**run, "params": {"lr": {}}}]}]})
    yield "a text with NUL", json.dumps({"rows": [{"label": "mha\0", "runs": [run]}]})
    yield "credentials", json.dumps({"rows": [{"label": "mha", "runs": [{**run, "seed": "http://me:secret@host"}]}]})
    yield "binary", "\x00\xff\xfe"


@pytest.mark.parametrize(("kind", "text"), list(evil_reports()))
def test_an_evil_report_gets_one_message(tmp_path, kind, text):
    path = tmp_path / "evil.html"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        read_rows(path)
    assert "secret" not in str(caught.value)
    assert len(caught.value.message) < 500


def test_a_report_that_is_too_large_or_absent_gets_one_message(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="cannot be read"):
        read_rows(tmp_path / "none.html")
    with pytest.raises(UsageError, match="cannot be read"):
        read_rows(tmp_path)
    monkeypatch.setattr("vgpt.study.report_data._LARGEST", 10)
    (tmp_path / "large.html").write_text("<" * 11)
    with pytest.raises(UsageError, match="larger than any report"):
        read_rows(tmp_path / "large.html")


def row_with(report, **changes):
    """The first row of a report, whose runs have other params or tags."""
    row = read_rows(report)[0]
    params, tags = changes.get("params", {}), changes.get("tags", {})
    runs = [replace(run, params={**run.params, **params}, tags={**run.tags, **tags}) for run in row.runs]
    return replace(row, runs=tuple(runs))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": {"data": "http://me:secret@host/data"}}, "the report's data is no path"),
        ({"params": {"data": "--plugin=evil.py"}}, "the report's data is no path"),
        ({"params": {"init_from": "a\nb"}}, "the report's init_from is no path"),
        ({"params": {"lr": "$(reboot)"}}, "cannot be used"),
        ({"params": {"n_layer": "-1"}}, "cannot be used"),
        ({"tags": {"vgpt.attn": "evil", "vgpt.plugins": '{"evil": "abc"}'}}, "is not known here"),
        ({"tags": {"vgpt.attn_settings": '{"window": "' + "x" * 9999}}, "cannot be read"),
    ],
)
def test_settings_that_no_run_can_have_had_are_refused(report, changes, words, tmp_path):
    with pytest.raises(UsageError, match=words) as caught:
        plan_rerun(row_with(report, **changes), out=tmp_path / "out", seeds=None, threads=None)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_and_stores_of_a_report_are_not_used(report, tmp_path):
    evil = {"runs_dir": "/", "run_name": "../../etc", "tracking_uri": "http://me:secret@host", "experiment": "x"}
    planned = plan_rerun(row_with(report, params=evil), out=tmp_path / "out", seeds=None, threads=2).runs
    for one in planned:
        words = " ".join(one.arguments)
        assert "secret" not in words
        assert "etc" not in words
        assert one.config.directory == tmp_path / "out" / f"s{one.seed}"
        assert (one.config.run.tracker, one.config.run.experiment) == ("journal", "reproduced")
        assert one.config.system.threads == 2


def test_what_is_trained_again_has_the_settings_and_seeds_of_the_report(report, three, tmp_path):
    rerun = plan_rerun(read_rows(report)[1], out=tmp_path / "out", seeds=None, threads=None)
    hashes = [run.tags["vgpt.settings_hash"] for run in three.rows[1].runs]
    assert [one.config.settings_hash for one in rerun.runs] == hashes
    further = plan_rerun(read_rows(report)[1], out=tmp_path / "out", seeds=2, threads=None)
    assert [one.seed for one in further.runs] == [4, 5]
    assert further.new_seeds


def test_other_data_source_and_settings_are_named(report, tmp_path):
    differs = " ".join(plan_rerun(read_rows(report)[0], out=tmp_path / "out", seeds=None, threads=None).differs)
    assert f"data: {'d' * 64} in the report, not there here" in differs
    assert f"source: {'f' * 16} in the report" in differs
    odd = row_with(report, tags={"vgpt.settings_hash": "0" * 64})
    assert "reads the recorded settings otherwise" in " ".join(
        plan_rerun(odd, out=tmp_path / "out", seeds=None, threads=None).differs
    )


def trained(rerun, losses):
    """Write the journals that training would leave."""
    for planned, loss in zip(rerun.runs, losses, strict=True):
        directory = planned.config.directory
        directory.mkdir(parents=True)
        RunRecord("i", planned.config.name, "reproduced", {}, {}, 1, status="finished", ended=2).save(directory)
        journal = Journal(directory, resume_step=None)
        journal.log(Point(4, 1, {"val/loss": loss}))
        journal.close()


def test_equal_losses_are_the_same_to_the_bit_and_others_are_held_against_the_interval(report, tmp_path):
    row = read_rows(report)[0]
    reported = [run.metrics["val/loss"] for run in row.runs]
    for number, (losses, verdict) in enumerate(
        (
            (reported, "reproduced"),
            ([math.nextafter(loss, 9) for loss in reported], "reproduced"),
            ([loss + 0.5 for loss in reported], "not reproduced"),
        )
    ):
        rerun = plan_rerun(row, out=tmp_path / f"out{number}", seeds=None, threads=None)
        trained(rerun, losses)
        found = judge_rerun(rerun)
        assert found.verdict == verdict
        assert [one.same for one in found.seeds] == [number == 0] * 3
        assert found.inside == (number < 2)


def test_one_seed_alone_decides_by_its_bits(report, tmp_path):
    row = read_rows(report)[0]
    alone = ReportedRow(row.label, "", row.runs[:1], None)
    loss = row.runs[0].metrics["val/loss"]
    for number, (found, verdict) in enumerate(((loss, "reproduced"), (loss + 1e-12, "undecided"))):
        rerun = plan_rerun(alone, out=tmp_path / f"out{number}", seeds=None, threads=None)
        trained(rerun, [found])
        assert judge_rerun(rerun).verdict == verdict


def test_the_mean_of_further_seeds_is_predicted_from_the_spread_of_the_reported():
    values = [2.31, 2.30, 2.33, 2.35]
    low, high = further_mean(values, 2)
    mean, sd = sum(values) / 4, math.sqrt(sum((v - sum(values) / 4) ** 2 for v in values) / 3)
    half = t.ppf(0.975, 3) * sd * math.sqrt(1 / 4 + 1 / 2)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-12)
    assert further_mean([2.3], 2) is None


def test_the_interval_of_further_seeds_holds_their_mean_in_95_of_100_cases():
    import numpy as np

    draws = np.random.default_rng(7).normal(2.3, 0.02, size=(4000, 5))
    bounds = [further_mean(list(line[:3]), 2) for line in draws]
    inside = np.mean([low <= line[3:].mean() <= high for (low, high), line in zip(bounds, draws, strict=True)])
    assert inside == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_nothing_is_overwritten(report, tmp_path):
    row = read_rows(report)[0]
    with pytest.raises(UsageError, match="is there already"):
        fresh_directory(row, tmp_path)
    assert not fresh_directory(row, None).exists()
    assert fresh_directory(row, None).parts[0] == "reproduced"
    assert fresh_directory(replace(row, label="../../x"), None).parent == Path("reproduced")


@pytest.mark.slow
def test_a_report_of_real_runs_is_reproduced_to_the_bit_by_the_command(vgpt, tmp_path):
    from tests.cli.tiny import TINY

    words = [*TINY, "--data", "demo", "--threads", "1"]
    assert vgpt("compare", "mha", "mqa", *words, "--seeds", 2, "--run-missing", "--html", "report.html").code == 0
    plan = vgpt("reproduce", "report.html", "--row", "mqa", "--plan")
    assert (plan.code, plan.out) == (0, "")
    assert "plan: mqa, seeds 1337, 1338, into reproduced" in plan.err
    again = vgpt("reproduce", "report.html", "--row", "mqa", "--json")
    assert again.code == 0, again.err
    table = json.loads(again.out)
    assert [one["same_bits"] for one in table["seeds"]] == [True, True]
    assert (table["verdict"], table["inside"], table["differs"], table["machine"]) == ("reproduced", True, [], [])
    text = Path("report.html").read_text()
    Path("other.html").write_text(text.replace('"vgpt.data_digest": "', '"vgpt.data_digest": "0'))
    refused = vgpt("reproduce", "other.html", "--row", "mqa")
    assert refused.code == 2
    assert "what would be trained is not what was reported" in " ".join(refused.err.split())
