"""A ladder from its one command: three tiny rungs, killed once in the middle, to table, figure and report."""

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

HEAD = """
name = "tiny"
lr = "5e-3 * (n_embd / 16) ^ -0.5"
warmup = 0.1
evaluations = 1

[variants.mla]
kv_lora_rank = "n_embd / 2"

[settings]
batch_size = 4
eval_windows = 16
block_size = 16
tracker = "journal"
data = "data"
device = "cpu"
dtype = "float32"
pos = "rope"
save_interval = 10
"""
RUNG = '\n[[rungs]]\nname = "{0}"\nn_layer = 2\nn_embd = {0}\nn_head = {1}\nmax_tokens = {2}\n'
VARIANTS = ("mha", "mla")
WORDS = ["compare", *VARIANTS, "--ladder", "ladder.toml", "--seeds", "3", "--run-missing", "--json"]
COMMAND = [sys.executable, "-m", "vgpt", *WORDS, "--html", "ladder.html", "--plot", "figures"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eighteen processes, one after another
def test_a_ladder_that_is_killed_ends_in_table_figure_and_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare([str(Path(package.__file__).parent / "text")], PrepareConfig(out="data", vocab_size=300, workers=1))
    rungs = "".join(RUNG.format(width, width // 8, 64 * width * 2) for width in (16, 32, 64))
    Path("ladder.toml").write_text(HEAD + rungs)
    process = subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 900
    while len(list(Path("runs").glob("*-s*/tracking.json"))) < 8:  # six are a rung
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    for run in Path("runs").glob("*-s*"):
        if (owner := lock_owner(run)) is not None:
            os.kill(owner.pid, signal.SIGKILL)
    journals = {path: path.read_bytes() for path in Path("runs").glob("*-s*/metrics.jsonl")}
    foretold = Path("runs/predictions.jsonl")
    before = foretold.read_text() if foretold.exists() else ""

    again = subprocess.run(COMMAND, capture_output=True, text=True, timeout=1200)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert [[row["n"] for row in part["rows"]] for part in found["parts"]] == [[3] * 2] * 3
    assert len(list(Path("runs").glob("*-s*"))) == 18
    kept = sum(path.read_bytes() == content for path, content in journals.items())
    assert kept >= 6, "what was finished is not trained again"
    ladder = found["ladder"]
    for one in ladder["variants"]:
        recorded, left_out = one["scored"]
        assert [recorded["rung"], recorded["left_out"], left_out["left_out"]] == ["64", False, True]
        assert recorded["made"] is not None
        assert recorded["inside"] in (True, False)
        assert one["trend"]["df"] == 1
        assert one["next"]["rests_on"] == ["16", "32", "64"]
    lines = foretold.read_text()
    assert lines.startswith(before)
    assert len(lines.splitlines()) == 2, "of the third rung, and of the one after it"
    assert "Trend of the differences over compute" in Path("ladder.html").read_text()
    assert Path("figures/ladder.png").stat().st_size > 10_000
