"""Ladder files: rules for the learning rate and for settings of variants, and what is refused."""

import pytest

from vgpt.errors import SettingsError, UsageError
from vgpt.settings.ladder import load_ladder

LADDER = """
name = "small"
preset = "demo"
lr = "2e-3 * (n_embd / 128) ^ -0.5"
tokens_per_parameter = 20

[variants.gqa]
n_kv_head = "n_head / 2"

[variants.mla]
kv_lora_rank = "0.75 * n_embd"
"""
RUNGS = """
[[rungs]]
name = "a"
n_layer = 2
n_embd = 32
n_head = 4

[[rungs]]
name = "b"
n_layer = 3
n_embd = 64
n_head = 6
lr = 0.01
max_tokens = 5000
"""


@pytest.fixture
def load(tmp_path):
    def load(text=LADDER + RUNGS):
        (tmp_path / "ladder.toml").write_text(text)
        return load_ladder(tmp_path / "ladder.toml")

    return load


def test_the_learning_rate_follows_its_rule_unless_a_rung_says_otherwise(load):
    ladder = load()
    # (32 / 128)^-0.5 = 2
    assert [ladder.rate(rung) for rung in ladder.rungs] == [pytest.approx(4e-3), 0.01]
    constant = load(LADDER.replace('"2e-3 * (n_embd / 128) ^ -0.5"', "3e-3") + RUNGS)
    assert constant.rate(constant.rungs[0]) == 3e-3


def test_settings_of_variants_are_shares_of_a_size(load):
    ladder = load()
    assert [ladder.scaled(rung, 128) for rung in ladder.rungs] == [
        {"gqa": {"n_kv_head": "2"}, "mla": {"kv_lora_rank": "24"}},
        {"gqa": {"n_kv_head": "3"}, "mla": {"kv_lora_rank": "48"}},
    ]
    plain = load((LADDER + RUNGS).replace('"n_head / 2"', "1").replace('"0.75 * n_embd"', '"head_dim * 3"'))
    assert plain.scaled(plain.rungs[0], 128) == {"gqa": {"n_kv_head": "1"}, "mla": {"kv_lora_rank": "24"}}


def test_a_share_that_is_no_whole_number_is_refused_by_rung_and_not_rounded(load):
    ladder = load((LADDER + RUNGS).replace('"n_head / 2"', '"n_head / 4"'))
    assert ladder.scaled(ladder.rungs[0], 128)["gqa"] == {"n_kv_head": "1"}
    with pytest.raises(SettingsError, match=r"rung b: gqa.n_kv_head = 'n_head / 4' is 1.5, no whole number"):
        ladder.scaled(ladder.rungs[1], 128)


def test_the_budget_is_in_tokens_or_in_tokens_per_parameter(load):
    ladder = load()
    assert [ladder.budget(rung, 1000) for rung in ladder.rungs] == [20_000, 5000]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("n_layer = 2", "n_layers = 2"), "rungs: n_layers: unknown key; did you mean 'n_layer'?"),
        (('name = "b"', 'name = "a"'), "two rungs are called a"),
        (("tokens_per_parameter = 20\n", ""), "how many tokens does a train on?"),
        (("max_tokens = 5000", "max_tokens = 5000\ntokens_per_parameter = 1"), "both set the budget"),
        (("^ -0.5", "- 0.5"), "must be a number, or of the form"),
        (("[variants.gqa]", "[variants.gqs]"), "variants.gqs: unknown attention 'gqs'; did you mean 'gqa'?"),
        (("n_kv_head =", "n_kv_heads ="), "variants.gqa.n_kv_heads: unknown setting; did you mean 'n_kv_head'?"),
        (("[[rungs]]", "[settings]\nlr = 1\n\n[[rungs]]"), "settings.lr: stands above as lr already"),
        (("[[rungs]]", "[settings]\nn_embd = 1\n\n[[rungs]]"), "settings.n_embd: a ladder sets this itself"),
        (("[[rungs]]", "[settings]\ndropuot = 1\n\n[[rungs]]"), "did you mean 'dropout'?"),
        (('name = "a"', 'name = "a b"'), "must be letters, digits"),
    ],
)
def test_what_is_wrong_is_named(load, change, said):
    with pytest.raises(SettingsError) as found:
        load((LADDER + RUNGS).replace(*change, 1))
    assert said in found.value.message


def test_a_file_that_is_not_there_is_named_with_its_flag(tmp_path):
    with pytest.raises(UsageError, match=r"--ladder .*none.toml: cannot be read"):
        load_ladder(tmp_path / "none.toml")
