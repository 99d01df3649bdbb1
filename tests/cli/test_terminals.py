"""Terminals that cannot spell, terminals without width, and what is printed for programs: never a traceback."""

import json
import os
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from tests.cli.tiny import TINY
from vgpt.cli.console import make_printable, print_json, with_noise
from vgpt.cli.switches import plain_switches
from vgpt.files.text import to_json


def started(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    base = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vgpt", *words]
    return subprocess.run(command, cwd=place, env=base | environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_what_a_terminal_cannot_spell_has_a_stand_in(tmp_path, encoding):
    done = started(tmp_path, "explain", "gqa", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].count(b"#") > 20  # the last row of the mask: every earlier token is seen
    assert b"Traceback" not in done.stderr


def test_json_keeps_every_letter_on_a_terminal_that_cannot_spell_it(monkeypatch):
    """No letter of a result may become another sign: a program would take it for the text."""
    for encoding in ("ascii", "utf-8"):
        stream = TextIOWrapper(BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        make_printable()
        print_json({"text": "caf\u00e9 \udcff ±"})
        stream.flush()
        assert json.loads(stream.buffer.getvalue().decode(encoding))["text"] == "caf\u00e9 \udcff ±"


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_width_that_holds_no_text_is_taken_for_80_columns(vgpt, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", "80")
    wanted = [vgpt("variants"), vgpt("train", "--lr", "0"), vgpt("train", "--lrr", "0"), vgpt("--help")]
    monkeypatch.setenv("COLUMNS", columns)
    assert [vgpt("variants"), vgpt("train", "--lr", "0"), vgpt("train", "--lrr", "0"), vgpt("--help")] == wanted
    assert wanted[0].out.strip()
    assert "greater than 0" in wanted[1].err


def test_an_unknown_word_that_is_an_address_shows_no_password(vgpt):
    done = vgpt("train", "http://al:s3cr/et9@host:9")
    assert done.code == 2
    assert "et9" not in done.err
    assert "***@host:9" in done.err


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--bias=false"], "false"),
        (["--bias=True"], "true"),
        (["--bias", "false"], "false"),
        (["--no-bias=no"], "true"),
        (["--bias", "TRUE", "--n-layer", "2"], "true"),
    ],
)
def test_a_switch_may_be_written_with_its_value(vgpt, words, value):
    done = vgpt("train", *words, "--show-settings", "--json")
    assert json.loads(done.out)["bias"] == {"value": value, "origin": "command line"}


def test_a_plain_switch_is_left_out_where_its_value_says_no(vgpt):
    assert vgpt("variants", "--json=false").out == vgpt("variants").out
    assert json.loads(vgpt("variants", "--json=true").out)
    assert vgpt("train", "--bias=maybe").code == 2


def test_words_after_two_dashes_are_nobodys_switches():
    class Switch:
        is_flag, opts, secondary_opts = True, ["--bias"], ["--no-bias"]

    class Command:
        params = (Switch(),)

    assert plain_switches(["--", "--bias=false"], Command()) == ["--", "--bias=false"]


@pytest.mark.slow
def test_one_window_has_no_standard_error_and_says_so(tmp_path, vgpt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("".join(f"{i} words that are many enough to learn from\n" for i in range(300)))
    assert vgpt("prepare", "t.txt", "--out", "d", "--vocab-size", "280", "--workers", "1").code == 0
    done = vgpt("train", "--data", "d", *TINY, "--eval-windows", "1", "--run-name", "one", "--json")
    assert done.code == 0
    assert json.loads(done.out)["val/loss_se"] is None
    for shown in (
        vgpt("train", "--data", "d", *TINY, "--eval-windows", "1", "--run-name", "one"),
        vgpt("eval", "one", "--windows", "1"),
    ):
        assert "no standard error" in shown.out
        assert "nan" not in shown.out
    assert json.loads(vgpt("eval", "one", "--windows", "1", "--json").out)["loss_se"] is None
    for words in (("runs", "--json"), ("compare", "--tracker", "journal", "--json")):
        told = vgpt(*words)
        assert told.code == 0, told.err
        json.loads(told.out, parse_constant=pytest.fail)
    assert "nan" not in vgpt("compare", "--tracker", "journal").out.lower()


def test_json_has_no_word_for_what_is_no_number():
    told = to_json({"a": [float("nan"), (float("-inf"), 1.5)], "b": Path("x")})
    assert json.loads(told, parse_constant=pytest.fail) == {"a": [None, [None, 1.5]], "b": "x"}
    assert with_noise(1.0, 0.5, "noise") == "1.0000 ± 0.5000 (noise)"
