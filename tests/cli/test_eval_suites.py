"""`vgpt eval --suite`, and what `vgpt compare` makes of it: through the command line alone."""

import json
import os
import shutil
from pathlib import Path

import pytest

import vgpt as package
from tests.cli.tiny import TINY
from tests.evaluation.suites.conftest import CHOICES, WHOLE
from vgpt.report.json_schema import json_schema

HERE = ["--device", "cpu", "--dtype", "float32", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, vgpt):
    """Two variants, trained for two steps, and two task files with their data."""
    directory, before = tmp_path_factory.mktemp("suites"), Path.cwd()
    os.chdir(directory)
    try:
        lines = [f"Scene {number}. Enter a reader, {number % 7} books in hand.\n" for number in range(400)]
        Path("play.txt").write_text("".join(lines))
        assert vgpt("prepare", "play.txt", "--out", "data", "--vocab-size", 280, "--workers", 1).code == 0
        for attn in ("mha", "mqa"):
            assert vgpt("train", *TINY, "--data", "data", "--attn", attn, "--run-name", attn).code == 0
        rows = [{"q": f"Scene {n}. Enter a" * (1 + n), "c": ["reader", "writer", "book"], "g": n % 3} for n in range(6)]
        Path("tasks").mkdir()
        Path("tasks/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        texts = [{"text": "".join(lines[:n])} for n in (1, 3, 5)]
        Path("tasks/texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        Path("tasks/choices.yaml").write_text(CHOICES)
        Path("tasks/whole.yaml").write_text(WHOLE)
    finally:
        os.chdir(before)
    return directory


@pytest.fixture
def run(place, tmp_path, monkeypatch, vgpt):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return vgpt


@pytest.fixture
def asked(run):
    pytest.importorskip("lm_eval")

    def asked(*words):
        outcome = run("eval", *words, *HERE)
        assert outcome.code == 0, outcome.err
        return outcome

    return asked


def test_without_lm_eval_one_message_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("vgpt.evaluation.suites.harness.find_spec", lambda name: None)
    outcome = run("eval", "mha", "--suite", "arc_easy")
    assert outcome.code == 1
    assert 'pip install "vgpt[eval]"' in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fewshot", "2"], "--fewshot says nothing here: it is for tasks of --suite"),
        (["--suite", "tasks", "--windows", "3"], "--windows says nothing here: --suite has texts of its own"),
        (["--suite", "tasks", "--recall"], "--recall says nothing here"),
    ],
)
def test_settings_that_would_say_nothing_are_refused(run, words, told):
    outcome = run("eval", "mha", *words)
    assert outcome.code == 2
    assert told in " ".join(outcome.err.replace("│", " ").split())


def test_a_folder_of_tasks_is_evaluated_told_and_recorded(asked):
    outcome = asked("mha", "--suite", "tasks", "--json")
    found = json.loads(outcome.out)
    assert [one["task"] for one in found["tasks"]] == ["choices", "whole"]
    assert found["tasks"][0]["figures"].keys() == {"acc", "bits_per_byte"}
    assert all(one["figures"]["bits_per_byte"]["se"] > 0 for one in found["tasks"])
    assert found["tasks"][0]["dtype"] == "float32"
    assert any("longer than the model's context of 16 tokens" in note for note in found["notes"])
    assert "recorded in runs/mha/suites.json" in outcome.err
    assert json.loads(Path("runs/mha/suites.json").read_text())["tasks"][0]["values"]["acc"]
    shown = asked("mha", "--suite", "tasks/choices.yaml").out
    assert "acc (higher is better)" in shown


def test_what_is_not_to_be_recorded_is_not(asked):
    asked("mha", "--suite", "tasks/choices.yaml", "--no-record")
    assert not Path("runs/mha/suites.json").exists()


def test_a_comparison_shows_suites_in_tables_columns_json_and_html(asked, run):
    jsonschema = pytest.importorskip("jsonschema")
    for name in ("mha", "mqa"):
        asked(name, "--suite", "tasks")
    compare = ["compare", "mha", "mqa", "--tracker", "journal"]
    shown = run(*compare).out
    assert "Suite: choices" in shown
    assert "Suite: whole" in shown
    columns = run(*compare, "--columns", "suite/choices/acc,suite/whole/bits_per_byte", "--csv").out.splitlines()
    assert columns[0].split(",")[-2:] == ["suite/choices/acc", "suite/whole/bits_per_byte"]
    assert 0 <= float(columns[1].split(",")[-2]) <= 1
    document = json.loads(run(*compare, "--json").out)
    jsonschema.validate(document, json_schema())
    rows = document["suites"]["choices"]["rows"]
    assert [row["figures"]["bits_per_byte"]["difference"] is None for row in rows.values()] == [True, False]
    assert run(*compare, "--html", "report.html").code == 0
    assert "Suite: choices" in Path("report.html").read_text()


def test_a_hostile_task_file_is_one_message_and_runs_nothing(run):
    pytest.importorskip("lm_eval")
    Path("utils.py").write_text("open('ran', 'w').close()\n")
    Path("evil.yaml").write_text(f"{CHOICES}process_docs: !function utils.f\n")
    outcome = run("eval", "mha", "--suite", "evil.yaml")
    assert outcome.code == 1
    assert "holds a program" in outcome.message
    assert not Path("ran").exists()
    assert not Path("runs/mha/suites.json").exists()


def test_suites_are_a_function_too(asked, run):
    found = package.evaluate_suites("mha", "tasks/choices.yaml", limit=4, device="cpu", dtype="float32", quiet=True)
    assert found.tasks[0].documents == 4
    assert list(found.to_pandas()["metric"]) == ["acc", "bits_per_byte"]
    assert "choices: acc" in found._repr_html_()
    with pytest.raises(package.VgptError, match="function of their own"):
        package.evaluate("mha", suite="tasks", quiet=True)
    with pytest.raises(package.VgptError, match="no suite is named"):
        package.evaluate_suites("mha")
