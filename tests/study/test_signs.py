"""In how many settings of a study a variant is better or worse, and on which of its axes that depends."""

import json

import pytest

from vgpt.cli.study.compare_views import Views, chosen_format
from vgpt.report.study_tables import signs_table
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.signs import signs
from vgpt.study.study import Answered, make_study


@pytest.fixture
def answered(make_run):
    """Answer `vgpt compare mha mqa mla --preset demo` along lists of values, from losses by variant and values.

    `differences` maps a variant to its differences to mha, one for each part; None leaves its runs out.
    """

    def make(differences, noise=0.001, seeds=3, tags=None, **axes):
        words = ["mha", *differences]
        typed = {name: ",".join(values) for name, values in axes.items()}
        study = make_study(
            words, Sources(command_line=typed | {"seeds": str(seeds), "tracker": "journal"}, preset=load_preset("demo"))
        )
        answers = []
        for number, part in enumerate(study.parts):
            runs = []
            for attn, by_part in {"mha": [0.0] * len(study.parts), **differences}.items():
                if by_part[number] is None:
                    continue
                runs += [
                    make_run(
                        attn,
                        settings={**part.values, "seed": 1337 + seed},
                        metrics={"val/loss": 2.0 + by_part[number] + noise * seed * (attn != "mha")},
                        tags=(tags or {}).get((attn, number)),
                    )
                    for seed in range(seeds)
                ]
            answers.append(Answered(part, part.answer(runs)))
        return study, answers

    return make


def one(answers):
    (found,) = signs(answers)
    return found


def test_a_sign_that_turns_with_the_positions_is_said_to(answered):
    _, answers = answered({"mqa": [-0.12, 0.07]}, pos=("learned", "rope"))
    found = one(answers)
    assert [part.direction for part in found.parts] == [-1, 1]
    assert found.depends_on == ["pos"]
    assert found.sentence == "better in 1 of 2 settings, worse in 1 of 2: depends on pos"


def test_positions_that_a_variant_brings_along_make_that_setting_incomparable(answered):
    found = one(answered({"mla": [-0.12, 0.07]}, pos=("learned", "rope"))[1])
    assert [part.direction for part in found.parts] == [0, 1]
    assert found.sentence == "worse in 1 of 2 settings; not comparable in 1 of 2"


def test_of_several_axes_those_are_named_along_which_alone_it_turns(answered):
    axes = {"lr": ("1e-3", "2e-3"), "pos": ("learned", "rope")}
    assert one(answered({"mqa": [-0.1, 0.1, -0.1, 0.1]}, **axes)[1]).depends_on == ["pos"]
    assert one(answered({"mqa": [-0.1, -0.1, 0.1, 0.1]}, **axes)[1]).depends_on == ["lr"]
    assert one(answered({"mqa": [-0.1, 0.1, 0.1, -0.1]}, **axes)[1]).depends_on == ["pos", "lr"]
    assert one(answered({"mqa": [-0.1, None, None, 0.1]}, **axes)[1]).depends_on == ["lr", "pos"]


def test_a_sign_that_holds_in_all_settings_depends_on_nothing(answered):
    found = one(answered({"mqa": [0.1, 0.2]}, pos=("learned", "rope"))[1])
    assert (found.depends_on, found.sentence) == ([], "worse in 2 of 2 settings")


def test_signs_within_the_noise_are_counted_and_nothing_is_concluded(answered):
    found = one(answered({"mqa": [-0.1, 0.1]}, noise=0.5, pos=("learned", "rope"))[1])
    assert (found.count(-1, shown=True), found.count(1, shown=True)) == (0, 0)
    assert found.sentence.startswith("no difference shown")
    assert "depends" not in found.sentence


def test_one_seed_shows_nothing(answered):
    found = one(answered({"mqa": [-0.1, 0.1]}, seeds=1, pos=("learned", "rope"))[1])
    assert [part.direction for part in found.parts] == [-1, 1]
    assert found.sentence == "no difference shown; the sign is not the same in all, which noise may do"


def test_what_is_missing_or_not_comparable_is_counted_apart(answered):
    axes = {"pos": ("learned", "rope", "none")}
    found = one(answered({"mqa": [0.1, None, 0.1]}, tags={("mqa", 0): {"vgpt.dtype": "bfloat16"}}, **axes)[1])
    assert [part.direction for part in found.parts] == [0, 0, 1]
    assert found.sentence == "worse in 1 of 3 settings; not comparable in 1 of 3; not on record in 1 of 3"


def test_a_part_without_the_baseline_says_nothing(answered, make_run):
    study, answers = answered({"mqa": [0.1, 0.1], "gqa": [0.2, 0.2]}, pos=("learned", "rope"))
    runs = [run for row in answers[0].comparison.rows[1:] for run in row.runs]
    answers[0] = Answered(study.parts[0], study.parts[0].answer(runs))
    assert [found.sentence for found in signs(answers)] == ["worse in 1 of 2 settings; not on record in 1 of 2"] * 2


def test_a_variant_and_the_same_with_a_setting_are_told_apart(answered):
    found = signs(answered({"gqa": [0.1, -0.1], "gqa:n_kv_head=1": [0.1, 0.1]}, pos=("rope", "none"))[1])
    assert [(one.variant, one.depends_on) for one in found] == [("gqa", ["pos"]), ("gqa:n_kv_head=1", [])]


def test_a_single_comparison_has_no_table_of_signs(answered):
    assert signs_table(answered({"mqa": [0.1]})[1]) == []


def test_text_json_and_report_tell_it(answered, capsys, tmp_path):
    study, answers = answered({"mqa": [-0.12, 0.07]}, pos=("learned", "rope"))
    Views(None, html=tmp_path / "report.html").show(study, answers)
    text = " ".join(capsys.readouterr().out.split())
    assert "Signs of the differences in 2 settings of pos" in text
    assert "pos = learned" in text
    assert "Quality" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("better in 1 of 2 settings, worse in 1 of 2: depends on pos") == 1
    assert "vgpt compare mha mqa --preset demo --pos learned,rope" in page
    Views(chosen_format(json=True)).show(study, answers)
    found = json.loads(capsys.readouterr().out)
    assert [part["values"] for part in found["parts"]] == [{"pos": "learned"}, {"pos": "rope"}]
    (sign,) = found["signs"]
    assert (sign["variant"], sign["lower"], sign["higher"], sign["depends_on"]) == ("mqa", 1, 1, ["pos"])
    assert [part["verdict"] for part in sign["parts"]] == ["better", "worse"]


def test_a_notebook_shows_the_signs_too(answered):
    from vgpt.api.comparing import Comparison

    study, answers = answered({"mqa": [-0.12, 0.07]}, pos=("learned", "rope"))
    found = Comparison(study, tuple(answers))
    assert "Signs of the differences in 2 settings" in str(found)
    page = found.save_html("signs.html").read_text()
    assert page.index("Signs of the differences") < page.index("pos = learned")
