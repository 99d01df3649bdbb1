import json
import math
import os
import resource
import signal
import time

import pytest

from vgpt.files.writing import replace_json
from vgpt.tracking.journal import Journal, JournalReader, Point, latest_metrics, read_events, read_metrics
from vgpt.tracking.lines import LineFile


def log(journal, *steps):
    for step in steps:
        assert journal.log(Point(step, 1000 + step, {"train/loss": 1.0 / step}, tokens=10 * step, seconds=0.5)) is None


def steps(run_dir):
    return [point.step for point in read_metrics(run_dir)]


def test_what_is_written_is_read_back(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    log(journal, 1, 2)
    journal.close()
    assert read_metrics(tmp_path) == [
        Point(1, 1001, {"train/loss": 1.0}, tokens=10, seconds=0.5),
        Point(2, 1002, {"train/loss": 0.5}, tokens=20, seconds=0.5),
    ]


def test_a_line_is_readable_as_soon_as_it_is_logged(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    log(journal, 1)
    assert steps(tmp_path) == [1]
    journal.close()


def test_values_that_json_does_not_know_survive_and_every_line_stays_valid_json(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    journal.log(Point(1, 1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}))
    journal.event("odd", {"value": math.nan, "path": tmp_path})
    journal.close()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for name in ("metrics.jsonl", "events.jsonl"):
        for line in (tmp_path / name).read_text().splitlines():
            json.loads(line, parse_constant=refuse)
    entry = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert entry["metrics"] == {"a": None, "b": None, "c": None, "d": 1.5}
    assert entry["nonfinite"] == {"a": "nan", "b": "inf", "c": "-inf"}
    metrics = read_metrics(tmp_path)[0].metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"], metrics["d"]) == (math.inf, -math.inf, 1.5)
    assert read_events(tmp_path)[0]["path"] == str(tmp_path)


def test_a_resumed_journal_keeps_the_steps_up_to_the_checkpoint(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    log(journal, *range(1, 11))
    journal.close()
    journal = Journal(tmp_path, resume_step=6)
    log(journal, 7, 8)
    journal.close()
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_fresh_run_starts_an_empty_journal(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    log(journal, 1, 2)
    journal.close()
    Journal(tmp_path, resume_step=None).close()
    assert steps(tmp_path) == []


@pytest.mark.parametrize(
    "torn", [b'{"step":3,"time":1,"met', b'{"step":3,"time":1,"metrics":{"a":1}}', b"\x00\x00\xff"]
)
def test_a_half_written_last_line_is_ignored_and_mended_on_resume(tmp_path, torn):
    journal = Journal(tmp_path, resume_step=None)
    log(journal, 1, 2)
    journal.close()
    for name in ("metrics.jsonl", "events.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(torn)
    assert steps(tmp_path) == [1, 2]
    journal = Journal(tmp_path, resume_step=2)
    log(journal, 3)
    journal.event("resumed", {})
    journal.close()
    assert steps(tmp_path) == [1, 2, 3]
    assert [event["kind"] for event in read_events(tmp_path)] == ["resumed"]


@pytest.mark.parametrize(
    "odd", ["[]", "3", '{"step":1}', '{"step":"x","time":1,"metrics":{}}', '{"step":1,"time":1,"metrics":[]}']
)
def test_lines_of_another_shape_are_passed_over(tmp_path, odd):
    (tmp_path / "metrics.jsonl").write_text(f'{odd}\n{{"step":2,"time":1,"metrics":{{"a":1}}}}\n')
    assert steps(tmp_path) == [2]


def test_a_reader_of_a_growing_journal_gets_each_point_once(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    reader = JournalReader(tmp_path)
    log(journal, 1, 2)
    assert [point.step for point in reader.new()] == [1, 2]
    assert reader.new() == []
    log(journal, 3)
    assert [point.step for point in reader.new()] == [3]
    journal.close()
    Journal(tmp_path, resume_step=1).close()
    assert [point.step for point in reader.new()] == [1]


def test_a_full_disk_holds_lines_back_in_order_and_tears_none(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = LineFile(tmp_path / "lines.jsonl")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        errors = [file.write({"n": n, "pad": "x" * 20}) for n in range(10)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert errors[0] is None
    assert isinstance(errors[-1], OSError)
    assert (tmp_path / "lines.jsonl").stat().st_size == 100
    assert file.close() is None
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(10))


def test_whatever_was_logged_outlives_kill_9(tmp_path, python):
    program = (
        "import sys, time; from pathlib import Path; from vgpt.tracking.journal import Journal, Point\n"
        "journal = Journal(Path(sys.argv[1]), resume_step=None)\n"
        "for step in range(1, 10**9): journal.log(Point(step, step, {'a': 1.0})); print(step, flush=True)\n"
    )
    process = python(program, tmp_path)
    acknowledged = 0
    while acknowledged < 200:
        acknowledged = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].splitlines()
    acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
    assert steps(tmp_path)[:acknowledged] == list(range(1, acknowledged + 1))


def test_logging_a_point_takes_less_than_a_millisecond(tmp_path):
    journal = Journal(tmp_path, resume_step=None)
    point = Point(1, 1, {f"metric/{n}": 1.0 / (n + 1) for n in range(8)})
    times = []
    for _ in range(500):
        before = time.perf_counter()
        journal.log(point)
        times.append(time.perf_counter() - before)
    journal.close()
    assert sorted(times)[len(times) // 2] < 1e-3


def test_the_latest_value_of_each_metric_counts(tmp_path):
    points = [Point(1, 1, {"a": 1.0, "b": 2.0}), Point(2, 2, {"a": 3.0})]
    assert latest_metrics(points) == {"a": 3.0, "b": 2.0}


def test_a_journal_is_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").write_text("precious\n")
    os.symlink(tmp_path / "elsewhere", tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="symbolic"):
        LineFile(tmp_path / "events.jsonl")
    assert (tmp_path / "elsewhere").read_text() == "precious\n"


def test_a_replaced_file_leaves_no_drafts(tmp_path):
    replace_json(tmp_path / "a.json", {"n": 1})
    replace_json(tmp_path / "a.json", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 2}
