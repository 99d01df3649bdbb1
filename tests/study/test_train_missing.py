import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vgpt.compare.choose import compare
from vgpt.study.train_missing import TrainingInterrupted, train_missing
from vgpt.tracking.lock import RunLock

RECORDER = """
import sys
open("calls.txt", "a").write(" ".join(sys.argv[1:]) + "\\n")
print("a result of train")
sys.exit({code})
"""

PARENT = """
import sys
from vgpt.study.train_missing import TrainingInterrupted, train_missing
from vgpt.compare.request import PlannedRun
from vgpt.settings.compare import CompareConfig

wanted = [PlannedRun("mha", 1, CompareConfig(), ("train",)), PlannedRun("mqa", 1, CompareConfig(), ("train",))]
try:
    train_missing(wanted, print, program=[sys.executable, "child.py"])
except TrainingInterrupted as stop:
    sys.exit(stop.code)
"""

CHILD = """
import pathlib, signal, sys, time
seen = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: seen.append(number))
pathlib.Path("started").touch()
while not seen:
    time.sleep(0.02)
time.sleep(0.5)  # saving takes a while
pathlib.Path("saved").write_text(str(len(seen)))
sys.exit(130 if seen[0] == signal.SIGINT else 75)
"""


@pytest.fixture
def missing(ask):
    return compare(ask("mha", "gqa", "mqa", preset="demo"), []).missing


def program(tmp_path, code):
    script = tmp_path / "train.py"
    script.write_text(RECORDER.format(code=code))
    return [sys.executable, str(script)]


def test_each_missing_run_is_trained_in_order_with_the_printed_command(missing, tmp_path):
    said = []
    assert train_missing(missing, said.append, program=program(tmp_path, 0)) == []
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert calls == [wanted.command.removeprefix("vgpt ") for wanted in missing]
    assert said[2] == "run 2 of 3: vgpt train --preset demo --attn gqa"


def test_the_time_left_is_told_after_each_run_but_the_last(missing, tmp_path):
    said = []
    train_missing(missing, said.append, program=program(tmp_path, 0))
    left = [line for line in said if "time left" in line]
    assert [line.split(";")[0] for line in left] == ["1 of 3 done", "2 of 3 done"]
    assert all("time left: about " in line for line in left)


def test_a_run_that_another_process_trains_is_waited_for(missing, tmp_path):
    directory = missing[0].config.directory
    directory.mkdir(parents=True)
    lock = RunLock(directory)
    lock.__enter__()
    calls_while_locked = []

    def end_of_the_other():
        calls_while_locked.append((tmp_path / "calls.txt").exists())
        lock.__exit__(None, None, None)

    threading.Timer(0.3, end_of_the_other).start()
    said = []
    assert train_missing(missing[:1], said.append, program=program(tmp_path, 0)) == []
    assert calls_while_locked == [False]
    assert said[1] == f"another process trains {directory} now: waiting for it"
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 1


def test_results_of_training_do_not_reach_stdout(missing, tmp_path, capfd):
    train_missing(missing[:1], lambda line: None, program=program(tmp_path, 0))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a result of train" in captured.err


def test_a_run_that_fails_does_not_keep_the_others_from_being_trained(missing, tmp_path):
    code = "3 if 'gqa' in sys.argv else 0"
    (failure,) = train_missing(missing, lambda line: None, program=program(tmp_path, code))
    assert (failure.planned.label, failure.code) == ("gqa:n_kv_head=2", 3)
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("code", [130, 75])
def test_a_run_that_was_told_to_stop_stops_the_rest(missing, tmp_path, code):
    with pytest.raises(TrainingInterrupted) as stop:
        train_missing(missing, lambda line: None, program=program(tmp_path, code))
    assert stop.value.code == code
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGINT, True),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
        (signal.SIGTERM, False),
    ],
)
def test_a_signal_reaches_the_training_once_and_its_saving_is_waited_for(tmp_path, number, whole_group):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    (tmp_path / "child.py").write_text(textwrap.dedent(CHILD))
    process = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # A terminal's Ctrl-C goes to its whole foreground group, `kill` to one process.
        os.killpg(process.pid, number) if whole_group else process.send_signal(number)
        assert process.wait(timeout=120) == (130 if number == signal.SIGINT else 75)
    finally:
        process.kill()
    assert (tmp_path / "saved").read_text() == "1"
