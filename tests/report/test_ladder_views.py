"""What is printed and written of a ladder: tables, JSON, CSV, the report and the figure."""

import csv
import io
import json
from dataclasses import replace

import jsonschema
import pytest

from vgpt.cli.study.compare_views import Views, chosen_format
from vgpt.report.figures.ladder import draw_ladder
from vgpt.report.figures.style import as_svg
from vgpt.report.json_schema import json_schema
from vgpt.report.ladder import ladder_tables
from vgpt.settings.loader import Sources
from vgpt.study.ladders.answers import answer_ladder
from vgpt.study.study import Answered, make_study

LADDER = """
name = "small"
preset = "demo"
lr = "2e-3 * (n_embd / 128) ^ -0.5"

[settings]
tracker = "journal"

"""
RUNG = """
[[rungs]]
name = "{0}"
n_layer = 2
n_embd = {1}
n_head = 2
max_tokens = {2}
"""
SHIFTS = {"mqa": (-0.05, 0.05, 0.08), "linear": (0.1, 0.12, 0.14)}


@pytest.fixture
def study(tmp_path):
    rungs = "".join(RUNG.format(*one) for one in (("a", 32, 20_000), ("b", 64, 30_000), ("c", 128, 40_000)))
    (tmp_path / "ladder.toml").write_text(LADDER + rungs)
    return make_study(["mha", "mqa", "linear"], Sources(command_line={"ladder": "ladder.toml", "seeds": "3"}))


@pytest.fixture
def answers(study, make_run):
    from vgpt.compare.comparison import as_one_family

    runs = []
    for number, part in enumerate(study.parts):
        for wanted in part.answer([]).missing:
            config = wanted.config
            settings = {name: getattr(config.model, name) for name in ("n_layer", "n_embd", "n_head")}
            settings |= {name: getattr(config.train, name) for name in ("lr", "max_steps", "seed")}
            shift = SHIFTS.get(config.model.attn.kind, (0, 0, 0))[number]
            noise = 0.001 * ((7 * config.train.seed + 3 * number + len(wanted.label)) % 5)
            runs.append(make_run(wanted.label, settings=settings, metrics={"val/loss": 4 - number + shift + noise}))
    found = as_one_family([part.answer(runs) for part in study.parts])
    return [Answered(part, one) for part, one in zip(study.parts, found, strict=True)]


def test_the_terminal_shows_differences_trend_scores_and_agreement(study, answers, capsys):
    Views(None).show(study, answers)
    text = " ".join(capsys.readouterr().out.split())
    for title in ("Difference to mha by rung", "Trend of the differences over compute", "Predictions scored"):
        assert title in text
    assert "mqa: the sign flips between a (shown) and b (shown): the order changes" in text
    assert "linear: the sign" not in text
    assert "one degree of freedom, t = 12.7" in text
    assert "left out, from a, b" in text
    assert "Agreement of the order of 3 variants" in text
    assert "Signs of the differences" not in text


def test_json_holds_the_ladder_beside_its_rungs(study, answers, capsys):
    Views(chosen_format(json=True)).show(study, answers)
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(json_schema()).validate(found)
    assert [part["values"] for part in found["parts"]] == [{"rung": name} for name in "abc"]
    ladder = found["ladder"]
    known = answer_ladder(study, answers)
    assert [one["name"] for one in ladder["rungs"]] == ["a", "b", "c"]
    assert ladder["rungs"][0]["compute"] == 6 * ladder["rungs"][0]["parameters"] * ladder["rungs"][0]["tokens"]
    mqa, linear = ladder["variants"]
    assert mqa["sign_flips"] == [{"between": ["a", "b"], "shown": True}]
    assert linear["trend"]["slope_per_decade"] == known.variants[1].trend.slope
    assert linear["next"]["made"] is None
    (made,) = linear["scored"]
    assert (made["rung"], made["left_out"], made["inside"]) == ("c", True, known.variants[1].predictions[0].inside)
    assert made["width"] == pytest.approx(made["interval95"][1] - made["interval95"][0])
    assert ladder["rank_agreement"]["variants"] == 3


def test_csv_has_a_line_for_each_rung_and_variant_and_for_the_next(study, answers, capsys):
    Views(chosen_format(csv=True)).show(study, answers)
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(line["rung"], line["attention"]) for line in lines[:6]] == [
        (rung, name) for rung in "abc" for name in ("mqa", "linear")
    ]
    assert len(lines) == 8
    known = answer_ladder(study, answers).variants[1]
    assert float(lines[5]["delta"]) == known.rungs[2].delta
    assert [float(lines[5][name]) for name in ("predicted_low", "predicted_high")] == [
        known.predictions[0].low,
        known.predictions[0].high,
    ]
    assert lines[5]["left_out"] == "True"
    assert lines[7]["delta"] == ""
    assert float(lines[7]["predicted"]) == known.next.value


def test_columns_of_csv_are_those_that_were_asked_for(study, answers, capsys):
    Views(chosen_format(csv=True)).show(study, answers)
    parts = [
        replace(
            one, request=replace(one.request, settings=one.request.settings.model_copy(update={"compare": compare}))
        )
        for one in study.parts
        for compare in [one.request.settings.compare.model_copy(update={"columns": ("delta",)})]
    ]
    capsys.readouterr()
    Views(chosen_format(csv=True)).show(replace(study, parts=tuple(parts)), answers)
    assert capsys.readouterr().out.splitlines()[0] == "rung,attention,delta"


def test_report_and_figures_have_the_ladder_once(study, answers, tmp_path):
    Views(chosen_format(csv=True), plot=tmp_path / "plots", html=tmp_path / "ladder.html").show(study, answers)
    page = (tmp_path / "ladder.html").read_text()
    assert page.count("Trend of the differences over compute") == 1
    assert page.index("All rungs</h2>") < page.index("Difference to mha over compute") < page.index("rung = ")
    assert "vgpt compare mha mqa linear --seeds 3 --ladder ladder.toml" in page
    assert {"ladder.png", "ladder.svg"} <= {path.name for path in (tmp_path / "plots").iterdir()}


def test_the_figure_has_a_panel_for_each_variant_and_says_what_it_cuts(study, answers):
    drawn = draw_ladder(answer_ladder(study, answers))
    assert len(drawn.figure.axes) == 2
    assert "mqa: -0.05" in drawn.alt
    assert "reach beyond the axis" in as_svg(drawn)
    assert draw_ladder(None) is None


def test_two_rungs_are_told_to_rest_on_a_straight_line(study, answers):
    from rich.console import Console

    text = io.StringIO()
    ladder = answer_ladder(replace(study, parts=study.parts[:2]), answers[:2])
    for part in ladder_tables(ladder):
        Console(file=text, width=120).print(part)
    told = " ".join(text.getvalue().split())
    assert "Two rungs show no scatter" in told
    assert "Predictions scored" not in told


def test_a_ladder_without_runs_says_nothing_it_does_not_know(study):
    empty = [Answered(part, part.answer([])) for part in study.parts]
    ladder = answer_ladder(study, empty)
    assert all(one.trend is None and one.next is None for one in ladder.variants)
    assert (ladder.agreement, draw_ladder(ladder)) == (None, None)


def test_a_ladder_shows_itself_in_a_notebook_too(study, answers):
    from vgpt.api.comparing import Comparison

    found = Comparison(study, tuple(answers))
    assert "Trend of the differences over compute" in str(found)
    assert "All rungs</h2>" in found.save_html("ladder.html").read_text()
