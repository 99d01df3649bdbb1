"""Runs and checkpoints of the version before its rooms were laid out anew: compared, continued, sampled as then.

`compare.json` holds what that version said of them, "ROMEOOOOOOOOOOOOO" what it wrote.
"""

import json
import shutil
from pathlib import Path

import pytest

from vgpt.tracking.store import read_local_run

MADE_BEFORE = Path(__file__).parents[1] / "golden" / "before_rooms"
VARIANTS = ("mha", "gqa", "local:window_size=8+mha")


@pytest.fixture
def before(tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(MADE_BEFORE, tmp_path / "before"))
    shutil.copytree(MADE_BEFORE.parent / "before_seals" / "d", "d")
    return Path("runs")


def test_a_comparison_says_of_them_what_it_said_then(before, vgpt):
    found = json.loads(stdout_of(vgpt, "compare", *VARIANTS, "--tracker", "journal", "--json"))
    said = json.loads(Path("compare.json").read_text())
    for row, then in zip(found["rows"], said["rows"], strict=True):
        assert (row["label"], row["n"]) == (then["label"], then["n"])
        assert row["metrics"]["val/loss"]["mean"] == then["loss"]
        one, other = row["statistics"]["difference"], then["difference"]
        assert (one is None) == (other is None)
        assert near(one, other)


def test_their_checkpoints_write_what_they_wrote_then(before, vgpt):
    words = ("--prompt", "ROMEO", "--max-tokens", "12", "--seed", "3", "--temperature", "0", "--device", "cpu")
    assert stdout_of(vgpt, "sample", "mixed", *words).startswith("ROMEOOOOOOOOOOOOO\n")


@pytest.mark.parametrize("name", ["gqa-1", "mixed"])
def test_the_losses_that_they_record_are_those_of_their_weights(before, vgpt, name):
    found = json.loads(stdout_of(vgpt, "eval", name, "--json", "--windows", "8", "--dtype", "float32"))
    assert found["loss"] == pytest.approx(read_local_run(before / name).metrics["val/loss"], rel=1e-6)


def test_a_stopped_run_of_mixed_layers_goes_on_and_ends_as_the_whole_one(before, vgpt):
    stdout_of(vgpt, "train", "--run-name", "stopped", *recorded_flags(), "--tracker", "journal")
    stopped, whole = (read_local_run(before / name) for name in ("stopped", "mixed"))
    assert stopped.metrics["val/loss"] == pytest.approx(whole.metrics["val/loss"], rel=1e-5)


def near(found, then):
    """Whether all that was said then is said now; numbers up to rounding."""
    if isinstance(then, dict):
        return all(near(found[name], value) for name, value in then.items())
    if isinstance(then, list):
        return len(found) == len(then) and all(map(near, found, then))
    return found == (pytest.approx(then, rel=1e-9) if isinstance(then, float) else then)


def stdout_of(vgpt, *words):
    done = vgpt(*words)
    assert done.code == 0, done.err
    return done.out


def recorded_flags():
    """The flags that this run was begun with."""
    words = "--data d --n-layer 2 --n-head 2 --n-embd 16 --block-size 32 --batch-size 2 --max-steps 6"
    words += " --eval-interval 3 --eval-windows 8 --pos rope --device cpu --dtype float32 --threads 1 --log-interval 1"
    return [*words.split(), "--save-interval", "1", "--attn", "local:window_size=8+mha", "--seed", "1"]
