"""Settings that mean the same are the same run, however they are spelled; earlier runs stay what they are."""

import pytest

from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig, spells_default


def settings(**words: str) -> TrainConfig:
    return load_settings(TrainConfig, Sources(command_line=words)).settings


SAME = {
    "min_lr": ({"lr": "3e-4"}, {"lr": "3e-4", "min_lr": "3e-5"}),
    "mlp_hidden": ({"n_embd": "32", "n_head": "4"}, {"n_embd": "32", "n_head": "4", "mlp_hidden": "128"}),
    "max_tokens": ({"max_steps": "100"}, {"max_steps": "100", "max_tokens": str(100 * 16 * 256)}),
    "data": ({"data": "d"}, {"data": "./d/"}),
    "init_from": ({"init_from": "runs/a"}, {"init_from": "./runs//a/"}),
    "mla": ({"attn": "mla"}, {"attn": "mla", "qk_nope_head_dim": "64", "v_head_dim": "64", "qk_rope_head_dim": "32"}),
}


@pytest.mark.parametrize(("plain", "spelled"), SAME.values(), ids=SAME.keys())
def test_a_default_that_is_spelled_out_makes_no_other_run(plain, spelled):
    one, other = settings(**plain), settings(**spelled)
    assert one.settings_hash == other.settings_hash
    assert one.name == other.name
    assert one.conditions() == other.conditions()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": "3e-4"}, {"lr": "3e-4", "min_lr": "3.1e-5"}),
        ({"n_embd": "384"}, {"n_embd": "384", "mlp_hidden": "1528"}),
        ({"max_steps": "100"}, {"max_steps": "100", "max_tokens": str(99 * 16 * 256)}),
        ({"data": "demo"}, {"data": "./demo"}),
        ({"attn": "mla"}, {"attn": "mla", "v_head_dim": "32"}),
        ({"device": "cpu"}, {"device": "cuda"}),
    ],
)
def test_what_means_something_else_is_another_run(one, other):
    assert settings(**one).settings_hash != settings(**other).settings_hash


def test_the_names_of_runs_without_spelled_defaults_are_those_of_earlier_versions():
    """Recorded with version 0.1.0 before spellings were made equal."""
    assert settings(data="data/corpus").name == "mha-s1337-f22d7851"
    assert settings(attn="gqa", n_kv_head="3", lr="3e-4", max_steps="20", data="demo").name == "gqa-s1337-a5e578ea"


def test_the_hash_of_settings_as_they_were_spelled_is_still_known():
    spelled = settings(min_lr="1e-4", data="./d")
    assert spelled.spelled_hash == "e9186f236b16420531b42e9f5932ea0f540817cbd57c3dd50da641e6ada0100b"
    assert spelled.spelled_hash != spelled.settings_hash


@pytest.mark.parametrize(
    ("name", "values", "same"),
    [
        ("min_lr", {"min_lr": "0.0001", "lr": "0.001"}, True),
        ("min_lr", {"min_lr": "none", "lr": "0.001"}, False),
        ("min_lr", {"min_lr": "0.0001"}, False),
        ("mlp_hidden", {"mlp_hidden": 128, "n_embd": 32}, True),
        ("dropout", {"dropout": 0.0}, False),
    ],
)
def test_a_spelled_default_is_told_from_numbers_and_from_their_text(name, values, same):
    assert spells_default(name, values) is same
