from pathlib import Path

import pytest

from vgpt.compare.statistics.sequential import SeedRule
from vgpt.errors import SettingsError, UsageError
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset, preset_directory
from vgpt.study.estimate import ThroughputEstimate
from vgpt.study.plan import make_plan
from vgpt.study.reproduce import study_command
from vgpt.study.sequential import rule_of
from vgpt.study.study import make_study

STUDY = """
name = "widths"
variants = ["mha", "gqa:n_kv_head=1", "mqa"]
preset = "demo"
seeds = 2
match = ["none", "params"]
lr = [1e-3, 2e-3]

[settings]
dropout = 0.1
flash = false
"""


@pytest.fixture
def study(tmp_path):
    """Make the study of a file's text, with settings as typed on the command line."""

    def make(text=STUDY, *words, **typed):
        (tmp_path / "study.toml").write_text(text)
        return make_study(words, Sources(command_line={"study": "study.toml", **typed}))

    return make


def test_every_combination_of_budgets_and_rates_is_a_comparison(study):
    found = study()
    assert found.name == "widths"
    assert [part.title for part in found.parts] == [
        f"match = {rule}, lr = {lr}" for rule in ("none", "params") for lr in (0.001, 0.002)
    ]
    for part in found.parts:
        settings = part.request.settings
        assert [term.attn for term in part.request.selectors] == ["mha", "gqa:n_kv_head=1", "mqa"]
        assert (settings.model.match, str(settings.train.lr)) == tuple(part.values.values())
        assert (settings.model.dropout, settings.model.flash, settings.model.n_layer) == (0.1, False, 4)
        assert settings.compare.seeds == 2


def test_the_plan_of_a_study_holds_each_run_once(study):
    plan = make_plan([part.answer([]) for part in study().parts], ThroughputEstimate([]))
    # mha is the reference: matching leaves it as it is; the others are other models then.
    assert {item.label: item.missing for item in plan.items} == {"mha": 4, "gqa:n_kv_head=1": 8, "mqa": 8}


def test_runs_on_record_answer_a_study_as_they_answer_flags(study, make_run):
    run = make_run("mqa", settings={"dropout": 0.1, "flash": False, "lr": 2e-3})
    answers = [part.answer([run]) for part in study().parts]
    assert [[row.label for row in answer.rows] for answer in answers] == [[], ["mqa"], [], []]


def test_every_run_is_trained_with_the_name_of_its_study(study):
    wanted = study().parts[0].answer([]).missing[0]
    assert wanted.config.run.group == "widths"
    assert "--group widths" in wanted.command


def test_the_name_of_the_study_is_no_condition(study, make_run):
    plain = study(STUDY.replace('"widths"', '"other"')).parts[0].answer([]).missing[0]
    named = study().parts[0].answer([]).missing[0]
    assert plain.config.settings_hash == named.config.settings_hash


def test_the_command_line_goes_before_the_file(study):
    found = study(lr="0.5", seeds="1", dropout="0")
    assert [part.title for part in found.parts] == ["match = none", "match = params"]
    assert found.first.settings.train.lr == 0.5
    assert found.first.settings.model.dropout == 0
    assert found.first.settings.compare.seeds == 1


def test_a_single_value_needs_no_list(study):
    found = study('name = "s"\nvariants = ["mha", "mqa"]\nmatch = "params"\n')
    assert [part.request.settings.model.match for part in found.parts] == ["params"]


def test_without_a_file_there_is_one_comparison_without_a_name(ask):
    found = make_study(["mha"], Sources(command_line={"lr": "0.1"}))
    assert (found.name, len(found.parts), found.parts[0].title) == ("", 1, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('varaints = ["mha"]', "varaints: unknown key; did you mean 'variants'?"),
        ("dropout = 0.1", "dropout: unknown key; it belongs below [settings]"),
        ("[settings]\ndropuot = 0.1", "settings.dropuot: unknown setting; did you mean 'dropout'?"),
        ('[settings]\nattn = "mha"', "settings.attn: a study sets this itself"),
        ("lr = 0.1\n[settings]\nlr = 0.2", "settings.lr: stands above as lr already"),
        ("seeds = 0", 'seeds = 0: must be a whole number from 1 to 1000, or "auto"'),
        ('seeds = "many"', "seeds = 'many': must be a whole number"),
        ('from = "mha"\nto = "mqa"', "variants, and from and to, exclude each other"),
        ('form = "mha"', "form: unknown key; did you mean 'from'?"),
        ('name = "a/b"', "name = 'a/b': must be letters"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_nearest_name(study, line, said):
    base = 'name = "s"\nvariants = ["mha"]\n' if not line.startswith("name") else 'variants = ["mha"]\n'
    with pytest.raises(SettingsError) as error:
        study(base + line)
    assert f"study.toml: {said}" in error.value.message


def test_a_file_without_variants_is_refused(study):
    for text in ('name = "s"\n', 'name = "s"\nfrom = "mha"\n', 'name = "s"\nvariants = []\n'):
        with pytest.raises(SettingsError, match="nothing is compared: name variants"):
            study(text)


def test_a_staircase_stands_in_a_file_as_on_the_command_line(study):
    text = 'name = "s"\npreset = "demo"\nseeds = 3\nmatch = ["none", "params"]\n'
    found = study(text + 'from = "gqa:n_kv_head=2"\nto = "mla:kv_lora_rank=16"\n')
    typed = {"seeds": "3", "from_": "gqa:n_kv_head=2", "to": "mla:kv_lora_rank=16"}
    alone = make_study([], Sources(preset=load_preset("demo"), command_line=typed))
    assert len(found.parts) == 2
    for part in found.parts:
        assert part.staircase == alone.parts[0].staircase
        assert [one.text for one in part.request.selectors] == [one.text for one in alone.first.selectors]
    with pytest.raises(UsageError, match="names the variants already: gqa:n_kv_head=2 to mla"):
        study(text + 'from = "gqa:n_kv_head=2"\nto = "mla:kv_lora_rank=16"\n', "mha")


def test_seeds_by_rule_stand_in_a_file(study):
    text = 'name = "s"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = "auto"\n'
    found = study(text + '[settings]\nmax_seeds = 5\nmargin = "0.01"\n')
    assert rule_of(found) == SeedRule(5, 1)


def test_a_budget_that_max_steps_would_cut_is_refused(study):
    with pytest.raises(UsageError, match="beyond max_steps, which ends at 819,200 tokens"):
        study('name = "s"\nvariants = ["mha"]\npreset = "demo"\nmax_tokens = [400_000, 900_000]\n')


def test_variants_stand_in_the_file_or_among_the_arguments(study):
    with pytest.raises(UsageError, match="names the variants already"):
        study(STUDY, "mha")


@pytest.mark.parametrize("text", [None, "name = ", b"\xff"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    place = tmp_path / "study.toml"
    if text is not None:
        place.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="cannot be read" if text is None else "not valid TOML"):
        make_study([], Sources(command_line={"study": str(place)}))


def test_the_packaged_study_is_sound():
    found = make_study([], Sources(command_line={"study": str(Path(preset_directory()) / "studies" / "demo.toml")}))
    assert len(found.parts) == 4


def test_positions_are_an_axis_whose_values_are_checked(study):
    text = 'name = "s"\nvariants = ["mha", "mqa"]\npreset = "demo"\npos = ["learned", "rope"]\nlr = [0.1, 0.2]\n'
    found = study(text)
    assert [part.values for part in found.parts] == [
        {"lr": lr, "pos": pos} for lr in ("0.1", "0.2") for pos in ("learned", "rope")
    ]
    assert [part.request.settings.model.pos for part in found.parts] == ["learned", "rope"] * 2
    with pytest.raises(SettingsError, match=r"pos\.1 = 'rop': Input should be 'learned', 'rope', 'none' or 'alibi'"):
        study('name = "s"\nvariants = ["mha"]\npos = ["rope", "rop"]\n')


def test_a_list_of_values_on_the_command_line_is_a_study_without_a_file():
    typed = {"pos": "learned, rope", "lr": "1e-3,2e-3", "seeds": "3", "n_kv_head": "4"}
    found = make_study(["mha", "gqa"], Sources(command_line=typed))
    assert [part.title for part in found.parts] == [
        f"lr = {lr}, pos = {pos}" for lr in ("1e-3", "2e-3") for pos in ("learned", "rope")
    ]
    assert [part.request.settings.model.pos for part in found.parts] == ["learned", "rope"] * 2
    assert [part.request.settings.train.lr for part in found.parts] == [0.001, 0.001, 0.002, 0.002]
    assert all(part.request.settings.compare.seeds == 3 for part in found.parts)
    assert found.divided
    assert study_command(found) == ("vgpt compare mha gqa --n-kv-head 4 --pos 'learned, rope' --lr 1e-3,2e-3 --seeds 3")


def test_the_runs_that_a_list_asks_for_are_those_that_single_flags_ask_for():
    found = make_study(["mha", "mqa"], Sources(command_line={"pos": "learned,rope"}))
    wanted = [[run.config.settings_hash for run in part.answer([]).missing] for part in found.parts]
    for pos, hashes in zip(("learned", "rope"), wanted, strict=True):
        (single,) = make_study(["mha", "mqa"], Sources(command_line={"pos": pos})).parts
        assert [run.config.settings_hash for run in single.answer([]).missing] == hashes
    assert len({one for hashes in wanted for one in hashes}) == 4


def test_a_list_on_the_command_line_goes_before_the_files_axis(study):
    found = study(STUDY, lr="0.1,0.3")
    assert [part.title for part in found.parts] == [
        f"match = {rule}, lr = {lr}" for rule in ("none", "params") for lr in ("0.1", "0.3")
    ]
    assert study(STUDY, pos="rope,none").parts[1].values == {"match": "none", "lr": "0.001", "pos": "none"}


@pytest.mark.parametrize(("text", "said"), [("rope,rope", "names a value twice"), (",", "names no value")])
def test_a_list_that_says_nothing_is_refused(text, said):
    with pytest.raises(UsageError, match=f"--pos '{text}' {said}"):
        make_study(["mha"], Sources(command_line={"pos": text}))


def test_a_wrong_value_in_a_list_is_named():
    with pytest.raises(SettingsError, match="--pos = 'rop'"):
        make_study(["mha"], Sources(command_line={"pos": "rope,rop"}))


def test_the_packaged_study_of_positions_is_sound():
    place = Path(preset_directory()) / "studies" / "positions.toml"
    found = make_study([], Sources(command_line={"study": str(place)}))
    assert [part.request.settings.model.pos for part in found.parts] == ["rope", "learned"]
    plan = make_plan([part.answer([]) for part in found.parts], ThroughputEstimate([]))
    assert [item.missing for item in plan.items] == [6] * 7


def test_the_parts_of_a_study_are_answered_as_one_family(make_run, tmp_path):
    from vgpt.study.answers import answer_study

    (tmp_path / "study.toml").write_text(
        'name = "two"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = 3\nlr = [1e-3, 2e-3]\n'
    )
    study = make_study([], Sources(command_line={"study": "study.toml", "tracker": "journal"}))
    runs = [
        make_run(attn, settings={"lr": lr, "seed": seed}, metrics={"val/loss": 2.3 + seed / 1e5 + shift})
        for lr in (1e-3, 2e-3)
        for attn, shifts in (("mha", (0.0, 0.0, 0.0)), ("mqa", (0.01, 0.012, 0.011)))
        for seed, shift in zip((1337, 1338, 1339), shifts, strict=True)
    ]
    found = [
        one.comparison.statistics[1].difference.judged for one in answer_study(study, runs, lambda run: None, print)
    ]
    alone = [part.answer(runs).statistics[1].difference.judged for part in study.parts]
    assert [one.rows for one in found] == [2, 2]
    assert [one.p for one in found] == pytest.approx([2 * one.p for one in alone])
