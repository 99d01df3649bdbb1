"""The main job through the command line alone: prepare, compare, train, evaluate, sample; with MLflow behind it."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TINY = (
    "--data data --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --max-steps 6 --eval-windows 4 "
    "--device cpu --dtype float32"
)
FLAGS = TINY.split()
COMPARE = ["compare", "mha", "mqa", *FLAGS]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a prepared play and two trained variants, and what the commands that made them printed."""
    place = tmp_path_factory.mktemp("main_job")
    lines = (f"Scene {number}. Enter a reader, {number % 7} books in hand.\n" for number in range(900))
    (place / "play.txt").write_text("".join(lines))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "100"}

    def run(*words):
        command = [sys.executable, "-m", "vgpt", *words]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    run("prepare", "play.txt", "--vocab-size", "300", "--out", "data", "--workers", "1")
    return place, run(*COMPARE, "--run-missing")


@pytest.fixture
def place(job, monkeypatch):
    monkeypatch.chdir(job[0])
    return job[0]


@pytest.fixture
def run_of(place):
    def find(attn):
        return next(path for path in (place / "runs").iterdir() if path.name.startswith(f"{attn}-"))

    return find


def good(outcome):
    assert outcome.code == 0, outcome.err
    return outcome


def as_json(outcome):
    return json.loads(good(outcome).out)


def test_run_missing_trains_each_variant_and_prints_three_tables(job):
    done = job[1]
    assert "run 1 of 2: vgpt train --attn mha" in done.stderr
    assert "run 2 of 2: vgpt train --attn mqa" in done.stderr
    for title in ("Quality", "Cost of training", "Size"):
        assert f"\n{title}" in f"\n{done.stdout}"
    for kind in ("mha ", "mqa "):
        assert sum(line.startswith(kind) for line in done.stdout.splitlines()) >= 3
    assert "Conditions: equal" in done.stdout


def test_a_second_time_it_trains_nothing_and_prints_the_same(job, place, vgpt):
    again = good(vgpt(*COMPARE, "--run-missing"))
    assert again.out == job[1].stdout
    assert "run 1" not in again.err


def test_the_comparison_needs_no_run_directory_only_mlflow(place, vgpt):
    good(vgpt("sync"))  # the mirrors of a busy machine may still owe something
    there, elsewhere = as_json(vgpt(*COMPARE, "--json")), as_json(vgpt(*COMPARE, "--json", "--runs-dir", "nowhere"))
    assert [row["metrics"] for row in elsewhere["rows"]] == [row["metrics"] for row in there["rows"]]
    mha, mqa = there["rows"]
    assert (mha["attention"], mqa["attention"]) == ("mha", "mqa")
    assert mqa["metrics"]["kv/bytes_at_context"]["mean"] * 2 == mha["metrics"]["kv/bytes_at_context"]["mean"]
    assert mha["kv_measured_equals_analytic"]
    assert mqa["kv_measured_equals_analytic"]


def test_without_mlflow_the_journals_answer_the_same(place, vgpt):
    before = as_json(vgpt(*COMPARE, "--json"))["rows"]
    shutil.move(place / "mlflow.db", place / "moved.db")
    try:
        after = as_json(vgpt(*COMPARE, "--json", "--tracker", "journal"))["rows"]
    finally:
        shutil.move(place / "moved.db", place / "mlflow.db")
    assert [row["metrics"] for row in after] == [row["metrics"] for row in before]


def test_the_same_training_again_answers_from_what_is_there(place, vgpt):
    again = vgpt("train", *FLAGS, "--attn", "mha", "--json")
    assert as_json(again)["status"] == "already"
    assert "nothing to train" in again.err


def test_a_dry_run_says_what_a_run_would_cost_and_trains_nothing(place, vgpt):
    told = as_json(vgpt("train", *FLAGS, "--attn", "gqa", "--dry-run", "--json"))
    assert told["tokens"] == 6 * 4 * 16
    assert told["parameters"] > 300 * 16
    assert not list((place / "runs").glob("gqa-*"))


def test_a_trained_run_is_evaluated_to_the_loss_it_recorded(place, run_of, vgpt):
    run = run_of("mha")
    recorded = json.loads((run / "summary.json").read_text())["metrics"]
    options = ["--windows", 4, "--dtype", "float32", "--device", "cpu"]
    found = as_json(vgpt("eval", run.name, *options, "--json"))
    assert found["loss"] == pytest.approx(recorded["val/best_loss"], abs=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    shown = good(vgpt("eval", f"runs/{run.name}", *options)).out
    assert f"{found['bits_per_byte']:.4f}" in shown
    assert "standard error" in shown


def test_a_trained_run_speaks(run_of, vgpt):
    spoken = good(vgpt("sample", run_of("mqa") / "ckpt", "--prompt", "Scene", "--max-tokens", 8)).out
    assert spoken.startswith("Scene")
    assert len(spoken) > len("Scene\n")


def test_preparing_says_what_was_made_and_what_comes_next(place, vgpt):
    words = ["prepare", "play.txt", "--vocab-size", 300, "--out", "data", "--workers", 1]
    assert "vgpt train --data data" in good(vgpt(*words)).out
    made = as_json(vgpt(*words, "--json"))
    assert made["vocab_size"] == 300
    assert set(made["splits"]) == {"train", "val"}
