"""`vgpt eval` beyond the loss, and what `vgpt compare` makes of it: through the command line alone."""

import json
import math
import os
from pathlib import Path

import pytest

from tests.cli.tiny import TINY

SETTINGS = [*TINY, "--data", "data", "--pos", "rope"]
HERE = ["--device", "cpu", "--dtype", "float32", "--threads", "1"]
COMPARE = ["compare", "mha", "linear", *SETTINGS, "--seed", "1", "--seeds", "1"]
RUNS = [("mha", 1), ("linear", 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, vgpt):
    """Two variants with rotary positions, trained for two steps on lines that repeat themselves."""
    directory, before = tmp_path_factory.mktemp("eval"), Path.cwd()
    os.chdir(directory)
    try:
        lines = (f"Scene {number}. Enter a reader, {number % 7} books in hand.\n" for number in range(400))
        Path("play.txt").write_text("".join(lines))
        assert vgpt("prepare", "play.txt", "--out", "data", "--vocab-size", 280, "--workers", 1).code == 0
        for attn, seed in RUNS:
            words = ["--attn", attn, "--seed", seed, "--run-name", f"{attn}-{seed}"]
            assert vgpt("train", *SETTINGS, *words).code == 0
        assert vgpt("train", *TINY, "--data", "data", "--run-name", "learned").code == 0
    finally:
        os.chdir(before)
    return directory


@pytest.fixture
def run(place, monkeypatch, vgpt):
    monkeypatch.chdir(place)
    return vgpt


@pytest.fixture(scope="module")
def evaluated(place, vgpt):
    """What `--json` says of every run, evaluated in all ways."""
    asked = ["--by-position", "--recall", "--lengths", "8,16,64", *HERE, "--json"]
    before = Path.cwd()
    os.chdir(place)
    try:
        outcomes = [vgpt("eval", f"{attn}-{seed}", *asked) for attn, seed in RUNS]
    finally:
        os.chdir(before)
    assert [one.code for one in outcomes] == [0, 0], outcomes[0].err
    assert f"recorded in runs/{RUNS[0][0]}-{RUNS[0][1]}/evaluations.json" in outcomes[0].err
    return [json.loads(one.out) for one in outcomes]


def test_the_parts_of_every_breakdown_make_up_the_loss(evaluated):
    for found in evaluated:
        for kind in ("positions", "recall"):
            parts = found["breakdowns"][kind]["parts"]
            assert sum(part["tokens"] for part in parts) == found["tokens"]
            assert sum(part["share"] * part["loss"] for part in parts) == pytest.approx(found["loss"])
        lengths, reach = found["breakdowns"]["lengths"], found["breakdowns"]["long_positions"]
        assert [part["name"] for part in lengths["parts"]] == ["8", "16", "64"]
        assert len({part["tokens"] for part in lengths["parts"]}) == 1
        whole = sum(part["share"] * part["loss"] for part in reach["parts"])
        assert whole == pytest.approx(lengths["parts"][-1]["loss"])
        assert reach["trained_on"] == 16
        assert [part["at"] for part in reach["parts"]] == [1, 2, 4, 8, 16, 32, 64]


def test_a_comparison_shows_differences_with_intervals_in_every_form(evaluated, run, tmp_path):
    whole = json.loads(run(*COMPARE, "--json").out)
    label = whole["rows"][1]["label"]
    found = whole["breakdowns"]["recall"]["rows"][label]
    (repeated, other) = found["parts"]
    there, here = (one["breakdowns"]["recall"]["parts"][0]["loss"] for one in evaluated)
    assert repeated["difference"]["delta"] == pytest.approx(here - there, abs=1e-6)
    low, high = repeated["difference"]["ci95"]
    assert low < repeated["difference"]["delta"] < high
    assert repeated["difference"]["over"] == "windows"
    assert whole["breakdowns"]["lengths"]["rows"][label]["parts"][2]["name"] == "64"
    total = repeated["share"] * repeated["difference"]["delta"] + other["share"] * other["difference"]["delta"]
    if found["share_of_gap"] is not None:
        share = found["share_of_gap"]["share"]
        assert share == pytest.approx(repeated["share"] * repeated["difference"]["delta"] / total)

    shown = run(*COMPARE)
    for title in ("Loss by position", "Recall: repeated", "Loss by length of the window", "in the longest windows"):
        assert title in shown.out
    assert "64 *" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100

    columns = "recall_loss,recall_delta,recall_delta_low,recall_share,beyond_delta,loss@64,delta@64,eval/other_loss"
    (base, row) = json.loads(run(*COMPARE, "--json", "--columns", columns).out)
    assert row["recall_delta"] == repeated["difference"]["delta"]
    assert row["loss@64"] == pytest.approx(evaluated[1]["breakdowns"]["lengths"]["parts"][2]["loss"], abs=1e-6)
    assert base["recall_delta"] is None
    assert row["eval/other_loss"] == pytest.approx(other["loss"])

    page = tmp_path / "report.html"
    assert run(*COMPARE, "--html", page, "--plot", tmp_path / "plots").code == 0
    assert "Difference to the baseline on repeated bigrams" in page.read_text()
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.svg")}
    assert {"lengths", "long_positions", "position_differences", "recall"} <= drawn


def test_tables_and_figures_of_one_run(run, tmp_path):
    words = ["--by-position", "--recall", "--lengths", "16,40", "--plot", tmp_path, "--no-record", *HERE]
    done = run("eval", "mha-1", *words)
    assert done.code == 0
    assert "9-16" in done.out
    assert "40 *" in done.out
    assert "beyond the 16 tokens of training" in done.out
    assert "no divisor of 40" in done.out
    assert "recorded" not in done.err
    assert {path.name for path in tmp_path.glob("*.png")} == {"by_position.png", "lengths.png", "long_positions.png"}


def test_learned_positions_refuse_longer_windows_and_the_next_step_works(run):
    refused = run("eval", "learned", "--lengths", "8,16,64", *HERE)
    assert refused.code == 2
    assert "learned positions" in refused.err
    assert "--lengths 8,16," in refused.err
    assert run("eval", "learned", "--lengths", "8,16", "--no-record", *HERE).code == 0


def test_windows_longer_than_the_text_are_refused(run):
    refused = run("eval", "mha-1", "--lengths", 10**6, *HERE)
    assert refused.code == 1
    assert "validation text has" in refused.err


def test_any_text_is_scored_by_the_sums_of_its_tokens_and_compared(run, tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("Scene 5. Enter someone else, größer.\n" * 3 + "__import__('os').abort()")
    found = [json.loads(run("eval", f"{attn}-{seed}", "--text", text, *HERE, "--json").out) for attn, seed in RUNS]
    one = found[0]
    assert one["split"] == "own.txt"
    assert one["perplexity"] == pytest.approx(math.exp(one["loss"]))
    nats = one["loss"] * one["tokens"]
    assert one["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.read_bytes()))
    rows = json.loads(run(*COMPARE, "--json", "--columns", "text_loss,text_bits,text_delta").out)
    assert rows[0]["text_bits"] == pytest.approx(one["bits_per_byte"], rel=1e-5)
    assert rows[1]["text_delta"] == pytest.approx(found[1]["loss"] - one["loss"], abs=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ["--text", "play.txt", "--recall"],
        ["--text", "play.txt", "--split", "train"],
        ["--lengths", "8,8"],
        ["--lengths", "0"],
        ["--plot", "figures"],
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(run, words):
    refused = run("eval", "mha-1", *words)
    assert refused.code == 2
    assert "Error" in refused.err


def test_what_says_nothing_of_the_run_is_shown_and_not_recorded(run, place):
    kept = place / "runs/learned/evaluations.json"
    done = run("eval", "learned", "--recall", "--split", "train", *HERE)
    assert done.code == 0
    assert "not recorded with the run: it is of text that the run was trained on" in done.err
    assert not kept.exists()


def test_a_damaged_record_is_told_and_costs_nothing_but_itself(run, evaluated, place):
    path = place / "runs/linear-1/evaluations.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"losses", b"lossse"))
    try:
        done = run(*COMPARE)
        assert done.code == 0
        assert "evaluations.json of linear-1 is damaged" in done.err
        assert "Not recorded on these windows: linear-1" in done.out
    finally:
        path.write_bytes(whole)
