"""Patterns of layers: their grammar, their settings, and models made of them."""

import pytest
import torch

from vgpt.attention.grammar import (
    LayerPattern,
    filled,
    format_pattern,
    full_label,
    is_pattern,
    parse_pattern,
    resolve_attention,
    short_label,
)
from vgpt.attention.mix.config import MixConfig, cut_off
from vgpt.errors import SettingsError
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, count_parameters, decode_flops, forward_flops
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import Preset
from vgpt.settings.train import TrainConfig


def kinds(text: str) -> list[str]:
    return [layer["kind"] for layer in parse_pattern(text)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("mha+mqa", "mha mqa"),
        ("3xmqa+mha", "mqa mqa mqa mha"),
        ("mqa*3+mha", "mqa mqa mqa mha"),
        ("2x(2xmqa+mha)+gqa", "mqa mqa mha mqa mqa mha gqa"),
        (" 2x mqa + mha ", "mqa mqa mha"),
    ],
)
def test_a_pattern_lists_its_layers(text, want):
    assert is_pattern(text)
    assert kinds(text) == want.split()


@pytest.mark.parametrize("text", ["mha", "gqa:n_kv_head=2", "mqa-like"])
def test_one_variant_is_no_pattern(text):
    assert not is_pattern(text)


def test_a_pattern_is_written_in_its_shortest_form_and_read_back():
    layers = parse_pattern("2x(gqa:n_kv_head=2+gqa:n_kv_head=2)+mha")
    assert format_pattern(layers) == "4xgqa:n_kv_head=2+mha"
    assert parse_pattern(format_pattern(layers)) == layers


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5xmha+gpa", "did you mean 'gqa'"),
        ("mha+", "no term"),
        ("2x(mha+mqa", "brackets"),
        ("mha)+(mqa", "brackets"),
        ("0xmha+mqa", "asks for 0 layers"),
        ("99999xmha+mqa", "asks for 99999 layers"),
        ("1000x(2xmha)+mqa", "more than 1024"),
        ("mha+gqa:n_kv_head", "setting=value"),
        ("mha+gqa:n_kv_heads=2", "n_kv_heads"),
        ("2xmix+mha", "mix is a pattern itself"),
    ],
)
def test_a_wrong_pattern_is_explained(text, complaint):
    with pytest.raises((SettingsError, ValueError), match=complaint):
        resolve_attention(text)


def test_settings_are_spelled_out_so_that_equal_patterns_are_equal():
    assert resolve_attention("2xgqa+mha") == resolve_attention("gqa:n_kv_head=2+gqa+mha")
    assert resolve_attention("2xgqa+mha").pattern == "2xgqa:n_kv_head=2+mha"
    assert filled("gqa+gqa:n_kv_head=1", {"gqa": {"n_kv_head": 4}}) == "gqa:n_kv_head=4+gqa:n_kv_head=1"


def test_a_pattern_goes_over_the_layers_again_and_again_until_the_last():
    pattern = LayerPattern.read("2xgqa:n_kv_head=4+mqa")
    assert [layer.kind for layer in pattern.layers(5)] == ["gqa", "gqa", "mqa", "gqa", "gqa"]
    assert pattern == LayerPattern.of(resolve_attention("2xgqa:n_kv_head=4+mqa"))
    assert LayerPattern.of(resolve_attention("mqa")).layers(3) == (resolve_attention("mqa"),) * 3


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("gqa", "gqa:n_kv_head=2", "gqa"),
        ("gqa:n_kv_head=4", "gqa:n_kv_head=4", "gqa:n_kv_head=4"),
        ("gqa+gqa+mha", "2xgqa:n_kv_head=2+mha", "2xgqa+mha"),
        ("2x(gqa:n_kv_head=4)", "2xgqa:n_kv_head=4", "2xgqa:n_kv_head=4"),
    ],
)
def test_a_variant_and_a_pattern_are_written_in_full_and_in_short(text, full, short):
    attn = resolve_attention(text)
    assert (full_label(attn), short_label(attn)) == (full, short)
    assert str(LayerPattern.of(attn)) == full


def load(preset=None, **typed):
    sources = Sources(Preset("p", preset) if preset else None, command_line=typed)
    return load_settings(TrainConfig, sources).settings.model


def test_a_variants_flag_and_its_preset_reach_the_layers_of_a_pattern():
    preset = {"model": {"attn": {"kind": "mha", "gqa": {"n_kv_head": 3}}}}
    assert load(attn="2xgqa+mha", n_kv_head="6").attn.pattern == "2xgqa:n_kv_head=6+mha"
    assert load(preset, attn="2xgqa+mha").attn.pattern == "2xgqa:n_kv_head=3+mha"
    assert load(preset, attn="2xgqa:n_kv_head=1+mha").attn.pattern == "2xgqa:n_kv_head=1+mha"
    with pytest.raises(SettingsError, match="does not apply to --attn mix"):
        load(attn="2xmqa+mha", n_kv_head="6")


def test_the_last_layer_can_be_another_variant():
    assert load(attn="mqa", attn_last="mha", n_layer="4").attn == MixConfig(pattern="3xmqa+mha")
    assert load(attn="mqa+gqa", attn_last="mha", n_layer="4").attn.pattern == "mqa+gqa:n_kv_head=2+mqa+mha"
    assert load(attn="mha", attn_last="mha").attn.kind == "mha"
    again = TrainConfig.model_validate_json(TrainConfig(model=load(attn="mqa", attn_last="mha")).model_dump_json())
    assert again.model == load(attn="mqa", attn_last="mha")
    with pytest.raises(SettingsError, match="--attn-last"):
        load(attn="mqa", attn_last="gpa")


def test_a_pattern_on_record_is_read_and_written_as_ever():
    record = {"kind": "mix", "pattern": "2xgqa:n_kv_head=2+mha"}
    config = TrainConfig.model_validate({"model": {"attn": record}})
    assert config.model.model_dump(mode="json")["attn"] == record
    assert (config.flat()["attn"], config.flat()["pattern"]) == ("mix", record["pattern"])
    assert config == TrainConfig.model_validate({"model": {"attn": "2xgqa+mha"}})
    assert hash(config.model.attn) == hash(resolve_attention("2xgqa+mha"))


def test_a_pattern_that_does_not_divide_the_layers_says_where_it_is_cut_off():
    attn = resolve_attention("2xmqa+mha")
    assert cut_off(attn, 6) == ""
    assert "2xmqa+mha+2xmqa" in cut_off(attn, 5)
    assert cut_off(resolve_attention("mha"), 5) == ""


def model(attn: str, n_layer: int = 3) -> GPT2Config:
    return GPT2Config(vocab_size=50, n_layer=n_layer, n_head=4, n_embd=32, block_size=24, attn=attn)


def test_costs_are_the_sums_of_the_layers():
    mixed, parts = model("2xmqa+gqa:n_kv_head=2"), [model("mqa", 1), model("mqa", 1), model("gqa:n_kv_head=2", 1)]
    assert count_parameters(mixed).attention == sum(count_parameters(part).attention for part in parts)
    assert cache_bytes(mixed, 20) == sum(cache_bytes(part, 20) for part in parts)
    head = 2 * 32 * 50
    for cost, shared in ((forward_flops, 24 * head), (decode_flops, head)):
        assert cost(mixed, 24) - shared == sum(cost(part, 24) - shared for part in parts)


def test_each_layer_is_of_its_variant_and_decodes_through_its_own_cache():
    torch.manual_seed(0)
    mixed = GPT2Model(model("2xmqa+mha"))
    initialize(mixed, 1)
    assert sum(p.numel() for p in mixed.parameters()) == count_parameters(mixed.config).total
    assert [block.attn.kv_heads for block in mixed.h] == [1, 1, 4]
    ids = torch.randint(50, (2, 20))
    full = mixed(ids)
    caches = mixed.make_caches(2, 20, dtype=torch.float32)
    parts = [mixed(part, caches) for part in ids.split([7, 1, 1, 11], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-5)
    assert sum(cache.nbytes for cache in caches) == 2 * cache_bytes(mixed.config, 20, 4)


def test_layers_shared_with_another_pattern_start_bit_equal():
    one, other = GPT2Model(model("2xmqa+mha")), GPT2Model(model("3xmqa"))
    for each in (one, other):
        initialize(each, 1)
    for name, tensor in one.state_dict().items():
        if not name.startswith("h.2.attn"):
            assert torch.equal(tensor, other.state_dict()[name]), name
