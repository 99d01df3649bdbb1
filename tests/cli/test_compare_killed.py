"""A comparison that is killed while it trains: the same command again trains what is missing, and nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vgpt as package
from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
from vgpt.tracking.lock import lock_owner

STEPS = 6000
"""So many that a trainer whose comparison was killed still runs when the next one asks for it."""
WORDS = "compare mha mqa --run-missing --json --data data --tracker journal --device cpu --dtype float32"
WORDS += " --n-layer 1 --n-head 2 --n-embd 32 --block-size 16 --batch-size 2 --eval-windows 16 --eval-interval 500"
WORDS += f" --max-steps {STEPS} --save-interval 20 --log-interval 10"
COMMAND = [sys.executable, "-m", "vgpt", *WORDS.split()]


def wait_for(what, process):
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, "the comparison ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("trainer_too", [False, True], ids=["the comparison alone", "its trainer too"])
def test_killed_in_the_midst_and_started_again_it_trains_only_the_rest(tmp_path, monkeypatch, trainer_too):
    monkeypatch.chdir(tmp_path)
    prepare([str(Path(package.__file__).parent / "text")], PrepareConfig(out="data", vocab_size=300, workers=1))
    process = subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(Path("runs").glob("mqa-*/ckpt/step-*")), process)
    finally:
        process.kill()
        process.wait()
    (mha,), (mqa,) = Path("runs").glob("mha-*"), Path("runs").glob("mqa-*")
    owner = lock_owner(mqa)
    assert owner is not None, "the trainer outlives the comparison"
    if trainer_too:
        os.kill(owner.pid, signal.SIGKILL)
    before = {path: (path / "tracking.json").read_bytes() for path in (mha, mqa)}
    journal = (mha / "metrics.jsonl").read_bytes()

    again = subprocess.run(COMMAND, capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr
    assert "plan: 1 run exists, 1 is missing, 1 of them begun" in again.stderr
    assert ("another process trains" in again.stderr) == (not trainer_too)
    assert [row["label"] for row in json.loads(again.stdout)["rows"]] == ["mha", "mqa"]
    assert (mha / "metrics.jsonl").read_bytes() == journal
    for path, record in before.items():
        now = json.loads((path / "tracking.json").read_bytes())
        assert (now["id"], now["started"]) == (json.loads(record)["id"], json.loads(record)["started"])
    points = [json.loads(line) for line in (mqa / "metrics.jsonl").read_text().splitlines()]
    steps = [point["step"] for point in points if "train/loss" in point.get("metrics", {})]
    assert sorted(set(steps)) == list(range(10, STEPS + 1, 10))
