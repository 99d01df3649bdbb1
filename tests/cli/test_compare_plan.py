"""`vgpt compare --plan` and `--study` from the command to what is printed; nothing is trained."""

import json

import pytest

STUDY = 'name = "widths"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = 2\nmatch = ["none", "params"]\n'


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_plan_is_shown_and_nothing_is_trained(vgpt, tmp_path):
    words = "compare mha gqa --run-missing --plan --seeds 5 --match params --preset demo --tracker journal"
    result = vgpt(*words.split())
    assert result.code == 0, result.err
    assert "plan: 0 runs exist, 10 are missing; time: unknown until the first has run" in " ".join(result.out.split())
    assert not list(tmp_path.iterdir())


def test_the_plan_is_there_as_json(vgpt):
    words = "compare mha gqa --plan --sweep-lr 3 --preset demo --tracker journal --json"
    result = vgpt(*words.split())
    table = json.loads(result.out)
    assert (table["exist"], table["missing"], table["seconds"]) == (0, 6, None)
    assert [(one["label"], one["missing"]) for one in table["variants"]] == [("mha", 3), ("gqa:n_kv_head=2", 3)]
    assert table["second_stage"] == [2, 4]
    assert table["runs"][0]["command"].startswith("vgpt train --preset demo --attn mha --lr 0.001")
    assert "--seed 2337" in table["runs"][0]["command"]


def test_a_study_file_makes_the_plan_of_all_its_comparisons(vgpt, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    words = "compare --study study.toml --plan --tracker journal --json"
    table = json.loads(vgpt(*words.split()).out)
    assert [(one["label"], one["missing"]) for one in table["variants"]] == [("mha", 2), ("mqa", 4)]
    assert all("--group widths" in run["command"] for run in table["runs"])


def test_an_unknown_key_of_a_study_file_is_wrong_usage(vgpt, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY + "sede = 3\n")
    result = vgpt("compare", "--study", "study.toml", "--plan")
    assert result.code == 2
    assert "did you mean 'seeds'?" in " ".join(result.err.replace("│", "").split())
