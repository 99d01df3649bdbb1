"""What is printed and written of a study: one table, one report, figures that do not overwrite each other."""

import csv
import io
import json
import re

import pytest

from vgpt.cli.study.compare_views import Views, chosen_format
from vgpt.settings.loader import Sources
from vgpt.study.study import Answered, make_study

STUDY = """
name = "widths"
variants = ["mha", "mqa"]
preset = "demo"
lr = [1e-3, 2e-3]

[settings]
tracker = "journal"
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    return make_study([], Sources(command_line={"study": "study.toml"}))


@pytest.fixture
def answers(study, make_run):
    runs = [make_run(attn, settings={"lr": lr}) for attn in ("mha", "mqa") for lr in (1e-3, 2e-3)]
    return [Answered(part, part.answer(runs)) for part in study.parts]


def test_csv_is_one_table_that_says_which_part_each_row_is_of(study, answers, capsys):
    Views(chosen_format(csv=True)).show(study, answers)
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(line["lr"], line["attention"]) for line in lines] == [
        (lr, attn) for lr in ("0.001", "0.002") for attn in ("mha", "mqa")
    ]


def test_json_names_the_study_and_the_values_of_each_part(study, answers, capsys):
    Views(chosen_format(json=True)).show(study, answers)
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == "widths"
    assert [part["values"] for part in found["parts"]] == [{"lr": "0.001"}, {"lr": "0.002"}]
    assert [[row["label"] for row in part["rows"]] for part in found["parts"]] == [["mha", "mqa"]] * 2


@pytest.mark.parametrize(("form", "mark"), [("markdown", "### lr = 0.001"), ("latex", "% lr = 0.001")])
def test_other_formats_are_a_table_for_each_part_below_its_title(study, answers, capsys, form, mark):
    Views(chosen_format(**{form: True})).show(study, answers)
    text = capsys.readouterr().out
    assert mark in text
    assert mark.replace("0.001", "0.002") in text


def test_the_terminal_shows_every_part_below_its_title(study, answers, capsys):
    Views(None).show(study, answers)
    text = capsys.readouterr().out
    assert [text.count(f"widths: lr = {lr}") for lr in ("0.001", "0.002")] == [1, 1]
    assert text.count("Quality") == 2


def test_report_and_figures_hold_all_parts(study, answers, tmp_path):
    Views(chosen_format(csv=True), plot=tmp_path / "plots", html=tmp_path / "report.html").show(study, answers)
    page = (tmp_path / "report.html").read_text()
    assert "vgpt compare --study study.toml" in page
    assert page.count("lr = 0.001</h2>") == page.count("lr = 0.002</h2>") == 1
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"lr-0.001_tradeoffs.png", "lr-0.002_tradeoffs.png", "lr-0.002_cache.svg"} <= names
