import csv
import io
import json

import pytest
from rich.console import Console

from vgpt.report.as_json import as_json
from vgpt.report.figures.staircase import draw_staircase
from vgpt.report.figures.style import as_svg
from vgpt.report.formats import as_csv
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.answers import answer_study
from vgpt.study.reproduce import study_command
from vgpt.study.study import make_study

LOSSES = {"gqa": 2.5, "mha": 2.45, "local": 2.47}


@pytest.fixture
def study():
    return make_study([], Sources(load_preset("demo"), command_line={"from_": "gqa", "to": "local", "seeds": "3"}))


@pytest.fixture
def found(study, make_run):
    """Compare gqa, mha and local with their made-up losses, three seeds each."""
    seed = study.first.settings.train.seed
    runs = [
        make_run(attn, settings={"seed": seed + number}, metrics={"val/loss": loss + 0.001 * number * len(attn)})
        for attn, loss in LOSSES.items()
        for number in range(3)
    ]
    return answer_study(study, runs, lambda run: None, pytest.fail)[0].comparison


def text_of(found):
    text = io.StringIO()
    console = Console(file=text, width=80)
    for part in tables(found):
        console.print(part)
    return text.getvalue()


def test_the_tables_tell_each_step_and_the_sum(found):
    text = text_of(found)
    assert "Staircase from gqa n_kv_head=2 to local window_size=32: validation loss" in text
    assert "n_kv_head 2 -> 4" in text
    assert "window_size 128 -> 32" in text
    assert "The 2 steps add up to -0.0280, the whole, over the same 3 seeds." in text
    assert "joint over 3 differences, the whole among them" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_csv_and_json_hold_the_same_steps(found):
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    told = json.loads(json.dumps(as_json(found)))["staircase"]
    assert [line["step"] for line in lines] == ["", "n_kv_head 2 -> 4", "window_size 128 -> 32"]
    for line, stair in zip(lines[1:], told["stairs"][1:], strict=True):
        assert float(line["step_delta"]) == stair["step"]["delta"]
        assert [float(line["step_low"]), float(line["step_high"])] == stair["step"]["ci95"]
        assert float(line["cumulative"]) == stair["cumulative"]
    assert told["sum_is_exact"]
    assert told["sum"] == pytest.approx(told["whole"]["delta"])
    costs = told["stairs"][2]["step"]
    assert (costs["params_change"], costs["flops_change"]) == (0, 0)
    assert costs["kv_change"] == 4 * (2 * 128) * (32 - 128) * 4  # layers, a key and a value, tokens, bytes


def test_the_figure_shows_every_step_and_the_whole(found):
    drawn = draw_staircase(found)
    svg = as_svg(drawn)
    assert all(f">{text}<" in svg for text in ("n_kv_head", "window_size", "the whole"))
    assert "n_kv_head 2 -> 4: -0.05" in drawn.alt


def test_a_comparison_without_a_staircase_has_none(three):
    assert draw_staircase(three) is None
    assert as_json(three)["staircase"] is None
    assert "Staircase" not in text_of(three)
    assert "step" not in as_csv(three).partition("\n")[0]


def test_the_command_of_a_staircase_names_its_ends(study):
    assert study_command(study) == "vgpt compare --preset demo --seeds 3 --from gqa --to local"
