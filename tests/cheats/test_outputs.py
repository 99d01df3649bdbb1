"""Every output says whether the study was sealed, changed since, or exploratory, and what is not shown."""

import json
from pathlib import Path

import pytest

WORDS = ("compare", "--study", "study.toml")


@pytest.mark.parametrize("form", ["--json", "--csv", "--markdown", "--latex", ""])
def test_every_format_says_that_a_plan_was_sealed(world, vgpt, form):
    result = vgpt(*WORDS, *filter(None, [form]))
    assert result.code == 0, result.err
    if form == "--json":
        plan = json.loads(result.out)["parts"][0]["plan"]
        assert (plan["status"], plan["looks"], plan["seeds"], plan["changes"]) == ("sealed", 2, [1, 2, 3], [])
        assert plan["hash"] == json.loads(Path("runs/plans/pledge.json").read_text())["hash"]
    else:
        assert "Sealed plan" in result.out + result.err


@pytest.mark.parametrize("form", ["--json", "--csv", "--markdown", "--latex", ""])
def test_every_format_says_that_a_study_was_changed(world, vgpt, form):
    assert vgpt(*WORDS, "--seeds", 2, *filter(None, [form])).code == 2
    result = vgpt(*WORDS, "--seeds", 2, "--exploratory", *filter(None, [form]))
    if form == "--json":
        part = json.loads(result.out)["parts"][0]
        assert part["plan"]["status"] == "changed after sealing"
        assert "compare.seeds: 3 when sealed, 2 now" in part["plan"]["changes"]
        assert {(one["attention"], one["seed"]) for one in part["not_shown"]} == {("mha", "3"), ("mqa", "3")}
    else:
        assert "CHANGED AFTER SEALING" in result.out + result.err


def test_the_page_says_so_and_lists_what_is_not_shown(world, vgpt):
    result = vgpt(*WORDS, "--seeds", 2, "--exploratory", "--html", "report.html")
    assert result.code == 0, result.err
    page = Path("report.html").read_text()
    assert "CHANGED AFTER SEALING" in page
    assert "compare.seeds: 3 when sealed, 2 now" in page
    assert "On record under these conditions and in no row" in page
    assert "mqa-3" in page


def test_a_study_without_a_plan_is_exploratory(world, vgpt):
    Path("runs/plans/pledge.json").unlink()
    assert "Exploratory: no plan was sealed; looked at 2 times" in vgpt(*WORDS).out


def test_what_cannot_be_sealed_is_refused(world, vgpt):
    for words, reason in (
        (["compare", "mha", "mqa", "--seal"], "which a file describes"),
        ([*WORDS, "--seal"], "is sealed already"),
    ):
        result = vgpt(*words)
        assert result.code == 2
        assert reason in " ".join(result.err.replace("│", "").split())
    Path("loose.toml").write_text('name = "loose"\nvariants = ["mha"]\n')
    assert "fixes no conditions" in " ".join(vgpt("compare", "--study", "loose.toml", "--seal").err.split())
