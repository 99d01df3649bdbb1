"""`vgpt compare --equivalent` from the command to what is printed; the trainings are tiny."""

import json

import pytest

_LINE = (
    "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 20 --warmup-steps 4 "
    "--eval-windows 4 --tracker journal --device cpu --dtype float32 --threads 1 --seeds 3 --no-bench"
)
WORDS = _LINE.split()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_plan_names_the_runs_at_other_budgets(vgpt, tmp_path):
    result = vgpt("compare", "mha", "mqa", *WORDS, "--equivalent", "tokens", "--plan", "--json")
    assert result.code == 0, result.err
    table = json.loads(result.out)
    assert (table["exist"], table["missing"]) == (0, 18)
    assert [one["missing"] for one in table["variants"] if "other budgets" in one["name"]] == [12]
    assert not list(tmp_path.iterdir())


def test_what_was_not_trained_is_said_to_be_missing(vgpt):
    result = vgpt("compare", "mha", "mqa", *WORDS, "--equivalent", "tokens")
    assert result.code == 1
    assert "--max-steps 14 --warmup-steps 3" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mha mqa --equivalent tokens", "Name a preset"),
        ("mha mqa --equivalent-to 2 --preset demo", "add --equivalent tokens"),
        ("mha mqa --equivalent joules --preset demo", "tokens"),
        ("mha mqa --equivalent tokens --equivalent-to 1.1 --preset demo", "lies within the budgets"),
    ],
)
def test_a_question_that_has_no_answer_is_wrong_usage(vgpt, words, said):
    result = vgpt("compare", *words.split(), "--tracker", "journal")
    assert result.code == 2
    assert said in " ".join(result.err.replace("│", "").split())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_variant_that_is_the_baseline_is_worth_one_and_nothing_is_trained_twice(vgpt, tmp_path):
    # A window as wide as the context sees all: local is mha, run by run.
    words = ("compare", "mha", "local:window_size=16", *WORDS, "--equivalent", "tokens", "--run-missing")
    first = vgpt(*words, "--html", "report.html", "--json")
    assert first.code == 0, first.err
    table = json.loads(first.out)["equivalents"]
    assert [line["factor"] for line in table["budgets"]] == [0.7, 0.85, 1.0, 1.2, 1.45]
    assert [line["tokens"] for line in table["budgets"]] == [n * 32 for n in (14, 17, 20, 24, 29)]
    assert table["conditions_equal"]
    (row,) = table["rows"]
    assert row["tokens"]["ratio"] == pytest.approx(1, abs=0.1)
    page = (tmp_path / "report.html").read_text()
    assert "Training of mha that a loss is worth" in page
    assert "--max-steps 29" in page  # how each run is trained again, those of other budgets too
    again = vgpt(*words, "--plan", "--json")
    assert json.loads(again.out)["missing"] == 0
