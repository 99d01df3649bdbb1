"""What a command names as the next step works when it is typed."""

import shlex
from pathlib import Path

import pytest

from tests.cli.tiny import TINY
from vgpt.files.paths import run_argument


@pytest.mark.parametrize("where", [(), ("--runs-dir", "my runs")])
def test_the_commands_that_a_finished_run_names_find_it(vgpt, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text("".join(f"Line {number} of a short play.\n" for number in range(400)))
    assert vgpt("prepare", "play.txt", "--out", "data", "--vocab-size", 280, "--workers", 1).code == 0
    trained = vgpt("train", *TINY, "--data", "data", "--run-name", "mine", *where)
    _, _, steps = trained.out.partition("next")
    commands = [shlex.split(step) for step in " ".join(steps.split()).split(" | ")]
    assert [words[:2] for words in commands] == [["vgpt", "sample"], ["vgpt", "compare"]]
    sampled = vgpt(*commands[0][1:], "--max-tokens", 4, "--device", "cpu")
    assert sampled.code == 0, sampled.message
    assert "mha" in vgpt(*commands[1][1:]).out


def test_a_run_elsewhere_is_named_by_its_directory():
    assert run_argument(Path("runs/mine")) == run_argument(Path.cwd() / "runs" / "mine") == "mine"
    assert run_argument(Path("other/mine")) == "other/mine"
    assert run_argument(Path("my runs/mine")) == "'my runs/mine'"
