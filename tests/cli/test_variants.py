"""`vgpt variants`: every variant with its costs, which are those of the model's own formulas and of the literature."""

import json

import pytest

from vgpt.attention import plugins, registry
from vgpt.attention.registry import variants
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, count_parameters

UNFINISHED = """
from vgpt.attention.config import AttentionConfig
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import register_attention

@register_attention("unfinished", module="Nowhere", summary="says nothing of its costs")
class Unfinished(AttentionConfig): ...

@register_attention("failing", module="Nowhere", summary="fails to say what it costs")
class Failing(MHAConfig):
    def params(self, shape): return 1 // 0

@register_attention("alternating", module="", summary="mha and mqa in turn")
class Alternating(MHAConfig):
    def at(self, layer):
        from vgpt.attention.grammar import resolve_attention
        return resolve_attention("mqa" if layer % 3 else "mha")
"""


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A plug-in with variants that are not finished."""
    variants()
    for module, name in ((registry, "_configs"), (registry, "_modules"), (plugins, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv("VGPT_PLUGINS", "")
    path = tmp_path / "unfinished.py"
    path.write_text(UNFINISHED)
    return path


@pytest.fixture
def listed(vgpt):
    """Run `vgpt variants ... --json` and return its entries by label."""

    def run(*words):
        done = vgpt("variants", *words, "--json")
        assert done.code == 0, done.err
        return {entry["attention"]: entry for entry in json.loads(done.out)["variants"]}

    return run


def test_every_variant_is_listed_with_its_summary(vgpt, listed):
    kinds = {"mix" if "+" in label else label.partition(":")[0] for label in listed()}
    assert kinds == set(variants())
    text = vgpt("variants").out
    for kind, config in variants().items():
        assert f"{kind} " in text
        assert " ".join(config.summary.split()[:3]) in " ".join(text.split())


# Worked out by hand for 12 layers of width 768 with 12 heads and biases, 1,024 tokens, two bytes a number.
@pytest.mark.parametrize(
    ("attn", "params", "attention", "kib", "kib_at_8192"),
    [
        ("mha", 2_362_368, 1_574_400, 36_864, 294_912),
        ("mqa", 1_279_616, 1_574_400, 3_072, 24_576),
        ("gqa:n_kv_head=4", 1_574_912, 1_574_400, 12_288, 98_304),
        ("gqa:n_kv_head=2", 1_378_048, 1_574_400, 6_144, 49_152),
    ],
)
def test_gpt2_small_costs_what_is_known_of_it(listed, attn, params, attention, kib, kib_at_8192):
    entry = listed(attn, "--preset", "gpt2-small")[attn]
    assert entry["params_per_layer"] == params
    assert entry["attention_flops_per_token"] == 12 * attention
    assert entry["forward_flops_per_token"] == 12 * (attention + 2 * entry["matmul_params"] / 12)
    assert entry["train_flops_per_token"] == 3 * entry["forward_flops_per_token"]
    assert entry["kv_bytes_at_context"] == kib * 1024
    assert entry["kv_bytes_at_kv_at"] == kib_at_8192 * 1024
    assert entry["kv_growth_bytes_per_token"] == kib


def test_the_costs_are_those_that_training_records(listed):
    flags = [
        "--n-layer",
        "3",
        "--n-head",
        "4",
        "--n-embd",
        "64",
        "--block-size",
        "96",
        "--out-gate",
        "elem",
        "--no-bias",
    ]
    for label, entry in listed("mha", "gqa", *flags, "--kv-dtype", "float32").items():
        shape = {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 96, "out_gate": "elem", "bias": False}
        model = GPT2Config(attn=label, vocab_size=100, **shape)
        assert entry["params"] == count_parameters(model).attention
        assert entry["kv_bytes_at_context"] == cache_bytes(model, 96, 4)


def test_a_setting_reaches_the_variants_that_have_it_and_do_not_set_it(listed):
    labels = listed("mha", "gqa", "gqa:n_kv_head=6", "--n-kv-head", "3")
    assert list(labels) == ["mha", "gqa:n_kv_head=3", "gqa:n_kv_head=6"]


def test_a_preset_gives_the_model_and_the_variants_settings(listed):
    assert "gqa:n_kv_head=4" in listed("gqa", "--preset", "gpt2-small")


def test_a_preset_with_an_unknown_section_is_refused(vgpt, tmp_path):
    (tmp_path / "mine.toml").write_text("[train]\nlr = 1e-3\n[modle]\nn_layer = 2\n")
    done = vgpt("variants", "--preset", tmp_path / "mine.toml")
    assert done.code == 2
    assert "modle" in done.err
    assert "lr" not in done.err


def test_a_variant_that_does_not_fit_says_why_and_the_others_are_shown(vgpt, listed):
    words = ["mha", "gqa:n_kv_head=4", "--n-head", "6"]
    entries = listed(*words)
    assert entries["mha"]["fault"] is None
    assert entries["gqa:n_kv_head=4"]["fault"].startswith("--n-kv-head 4 must divide --n-head 6")
    assert "params" not in entries["gqa:n_kv_head=4"]
    assert "must divide" in vgpt("variants", *words).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mpa"], "unknown attention 'mpa'; did you mean"),
        (["mqa", "--n-kv-head", "2"], "--n-kv-head belongs to gqa; asked for is mqa"),
        (["gqa:heads=2"], "unknown setting"),
        (["--n-head", "5"], "--n-head 5 must divide --n-embd 384"),
        (["--attn", "mha"], "No such option"),
    ],
)
def test_wrong_words_are_usage_errors(vgpt, words, message):
    done = vgpt("variants", *words)
    assert done.code == 2
    assert done.out == ""
    assert message in " ".join(done.err.replace("│", " ").split())


def test_a_plugin_that_fails_to_say_its_costs_does_not_keep_the_others_from_being_listed(vgpt, listed, unfinished):
    entries = listed("--plugin", unfinished)
    assert entries["unfinished"]["fault"] == "attention 'unfinished' does not say what it costs"
    assert entries["failing"]["fault"].startswith("its costs fail: ZeroDivisionError")
    assert entries["mha"]["params"] > 0
    assert entries["failing"]["plugin"] == str(unfinished)
    shown = vgpt("variants", "--plugin", unfinished).out
    assert "[plug-in" in shown


def test_layers_that_differ_are_summed(listed, unfinished):
    entries = listed("mha", "mqa", "alternating", "--n-layer", "4", "--plugin", unfinished)
    for cost in ("params", "forward_flops_per_token", "kv_bytes_at_context", "kv_growth_bytes_per_token"):
        assert entries["alternating"][cost] == (entries["mha"][cost] + entries["mqa"][cost]) / 2
    assert entries["alternating"]["params_per_layer"] == entries["alternating"]["params"] / 4


def test_the_tables_fit_eighty_columns(vgpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, vgpt("variants", "mha", "mqa", "gqa", "--preset", "gpt2-small").out.splitlines())) <= 80


def test_show_settings_prints_the_model(vgpt):
    assert "n_layer" in vgpt("variants", "--show-settings").out
