import pytest

from vgpt.errors import SettingsError
from vgpt.settings.loader import Sources, given_value, load_settings
from vgpt.settings.presets import Preset, load_preset, preset_names
from vgpt.settings.train import TrainConfig


def load(preset=None, dotenv=None, environment=None, **command_line):
    named = Preset("test", preset) if preset else None
    return load_settings(TrainConfig, Sources(named, dotenv or {}, environment or {}, command_line))


def test_each_source_overrides_the_weaker_ones_and_is_named_as_origin():
    preset = {"train": {"lr": 0.1, "seed": 1, "beta1": 0.1, "beta2": 0.1}}
    dotenv = {"VGPT_SEED": "2", "VGPT_BETA1": "0.2", "VGPT_BETA2": "0.2"}
    loaded = load(preset, dotenv, {"VGPT_BETA1": "0.3", "VGPT_BETA2": "0.3"}, beta2="0.4")
    train = loaded.settings.train
    assert (train.batch_size, train.lr, train.seed, train.beta1, train.beta2) == (16, 0.1, 2, 0.3, 0.4)
    names = ["batch_size", "lr", "seed", "beta1", "beta2"]
    assert [loaded.origins[n] for n in names] == ["default", "preset test", ".env", "environment", "command line"]


def test_every_fault_is_reported_at_once_with_value_and_source():
    with pytest.raises(SettingsError) as caught:
        load({"model": {"n_layers": 3}}, None, {"VGPT_LR": "70"}, batch_size="many", dtype="bf16")
    text = caught.value.message
    assert "model.n_layers = 3 (preset test): unknown setting; did you mean 'n_layer'?" in text
    assert "--lr = '70' (environment): Input should be less than or equal to 10" in text
    assert "--batch-size = 'many' (command line)" in text
    assert "--dtype = 'bf16' (command line)" in text
    assert len(caught.value.faults) == 4


def test_a_flag_of_another_variant_is_refused_and_names_its_owner():
    with pytest.raises(SettingsError, match=r"--n-kv-head does not apply to --attn mqa; it belongs to gqa"):
        load(attn="mqa", n_kv_head="2")


def test_an_environment_variable_of_another_variant_is_only_remarked():
    loaded = load(None, None, {"VGPT_N_KV_HEAD": "2"}, attn="mqa")
    assert loaded.settings.model.attn.kind == "mqa"
    assert "VGPT_N_KV_HEAD (environment) is left out" in loaded.notes[0]


def test_a_preset_holds_one_table_per_variant_so_any_variant_works_on_it():
    preset = {"model": {"attn": {"kind": "mha", "gqa": {"n_kv_head": 3}}}}
    assert load(preset).settings.model.attn.kind == "mha"
    loaded = load(preset, attn="gqa")
    assert loaded.settings.model.attn.n_kv_head == 3
    assert loaded.origins["n_kv_head"] == "preset test"
    assert load(preset, attn="gqa", n_kv_head="1").settings.model.attn.n_kv_head == 1
    assert load(preset, attn="gqa:n_kv_head=6").settings.model.attn.n_kv_head == 6


def test_a_preset_table_of_no_variant_is_refused():
    with pytest.raises(SettingsError, match=r"model\.attn\.gqaa: not the table of a variant.*did you mean 'gqa'"):
        load({"model": {"attn": {"kind": "mha", "gqaa": {"n_kv_head": 3}}}})


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown attention 'gpa'; did you mean 'gqa'\?"):
        load(attn="gpa")


def test_faults_across_fields_name_the_flags_and_the_way_out():
    with pytest.raises(SettingsError) as caught:
        load(attn="gqa", n_head="6", n_kv_head="4", activation="gelo")
    assert caught.value.faults == [
        "--n-kv-head 4 must divide --n-head 6; possible: [1, 2, 3, 6]",
        "--activation 'gelo' is unknown; did you mean 'gelu'? (known: gelu_new, gelu, silu, relu, relu2)",
    ]


def test_none_is_a_word():
    assert load({"train": {"patience": 3}}, patience="none").settings.train.patience is None


def test_settings_rebuild_from_their_json():
    settings = load(attn="gqa:n_kv_head=2", lr="0.01").settings
    assert TrainConfig.model_validate_json(settings.model_dump_json()) == settings


def test_the_default_name_follows_what_is_learned_and_not_where_it_is_kept():
    assert load().settings.name == load(runs_dir="elsewhere", save_interval="7").settings.name
    assert load().settings.name != load(lr="0.01").settings.name
    assert load(attn="gqa").settings.name.startswith("gqa-s1337-")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\nb", "<b>", "-a", "x" * 81, "a b"])
def test_run_names_cannot_leave_the_runs_directory(name):
    with pytest.raises(SettingsError):
        load(run_name=name)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_every_packaged_preset_is_valid_for_every_variant(name, kind):
    sources = Sources(load_preset(name), {}, {}, {"attn": kind})
    assert load_settings(TrainConfig, sources).settings.model.attn.kind == kind


def test_the_budget_in_tokens_ends_a_run_early():
    settings = load(max_tokens="10_000", batch_size="4", grad_accum="2", block_size="100").settings
    assert settings.steps == 13


def test_the_reference_of_matching_has_what_the_preset_says_of_its_variant():
    preset = {"model": {"n_head": 4, "n_embd": 64, "attn": {"kind": "mqa", "gqa": {"n_kv_head": 4}}}}
    for words, spelled in [("gqa", "gqa:n_kv_head=4"), ("gqa:n_kv_head=1", "gqa:n_kv_head=1"), ("gqa+mha", None)]:
        loaded = load(preset, match="params", match_to=words)
        assert loaded.settings.model.match_to == (spelled or "gqa:n_kv_head=4+mha")
        assert loaded.origins["match_to"] == "command line"


def test_a_reference_that_is_no_variant_is_told_beside_all_other_faults():
    with pytest.raises(SettingsError) as caught:
        load({"train": {"lr": 70}}, match="params", match_to="mqx")
    assert "--lr = 70 (preset test)" in caught.value.message
    with pytest.raises(SettingsError, match="--match-to: unknown attention 'mqx'; did you mean 'mqa'"):
        load(match="params", match_to="mqx")


def test_one_value_is_read_as_its_strongest_source_has_it():
    sources = Sources(Preset("test", {"model": {"match": "flops"}, "train": {}}), {"VGPT_LR": "1"}, {}, {"seed": "2"})
    assert [given_value(TrainConfig, sources, name) for name in ("match", "lr", "seed", "match_to", "device")] == [
        "flops",
        "1",
        "2",
        None,
        None,
    ]


@pytest.mark.parametrize("setting", ["match_to", "run_name", "data"])
def test_a_text_that_utf8_cannot_carry_is_a_fault_wherever_it_stands(setting):
    with pytest.raises(SettingsError, match="must be text without NUL that UTF-8 can carry"):
        load_settings(TrainConfig, Sources(environment={f"VGPT_{setting.upper()}": "\ud800"}))
