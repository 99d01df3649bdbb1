"""The conformance kit: built-in variants pass, mixes are taken apart, and its own parts work."""

import pytest
import torch
from torch import nn

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grammar import resolve_attention, short_label
from vgpt.attention.grouped.config import GQAConfig, MHAConfig, MQAConfig
from vgpt.attention.registry import variants
from vgpt.conformance import check_variant, failures
from vgpt.conformance.kit import checks_of, distinct_layers
from vgpt.conformance.memory import bytes_reached
from vgpt.errors import SettingsError, UsageError

SMALL = {"local": "local:window_size=24", "sparse": "sparse:sparse_block_size=8"}
"""Settings with which something is hidden on short sequences already."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in ("mqa", "gqa") else [])  # of one module with mha
        for kind, config in variants().items()
        if issubclass(config, AttentionConfig)
    ],
)
def test_every_built_in_variant_keeps_the_contract(kind):
    assert failures(SMALL.get(kind, kind)) == []


def test_each_distinct_layer_of_a_mix_is_checked_once_and_the_model_as_a_whole():
    mix = resolve_attention("2xgqa:n_kv_head=4+mqa")
    assert distinct_layers(mix) == [(0, GQAConfig(n_kv_head=4)), (2, MQAConfig())]
    results = check_variant(mix, only=["pairs", "in_a_model"])
    assert [(r.subject, r.check, r.passed) for r in results] == [
        ("gqa:n_kv_head=4", "pairs", True),
        ("mqa", "pairs", True),
        ("model", "in_a_model", True),
    ]


def test_backbones_that_depend_on_the_attention_are_caught(monkeypatch, caught):
    def from_one_stream(model, seed):
        stream = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.02, generator=stream)

    from vgpt.conformance import whole

    monkeypatch.setattr(whole, "initialize", from_one_stream)
    caught("mqa", "same_trunk", "start with other numbers than beside mha")


def test_the_backbone_may_be_given_and_settings_that_do_not_fit_are_refused():
    shape = Shape(48, 3, 80, bias=False, pos="rope")
    assert failures("gqa:n_kv_head=3", shape, only=["parameters", "decoding", "in_a_model"]) == []
    assert failures("gqa:n_kv_head=5", only=["parameters"]) == []
    with pytest.raises(SettingsError, match="--n-kv-head 2 must divide --n-head 3"):
        check_variant("gqa:n_kv_head=2", shape)
    with pytest.raises(SettingsError, match="--n-kv-head 13 must divide --n-head 4"):
        check_variant("gqa:n_kv_head=13")


def test_on_a_gpu_heads_wide_enough_for_its_fused_kernels_are_checked_beside_narrow_ones():
    widths = {}
    for device in ("cpu", "cuda"):
        cases = [check.case for check in checks_of("local:window_size=9", device=device) if check.case is not None]
        widths[device] = {backbone.shape.head_dim for case in cases for _, backbone in case.backbones()}
    assert widths == {"cpu": {8}, "cuda": {8, 16}}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [kind for kind, config in variants().items() if issubclass(config, AttentionConfig)])
def test_every_built_in_variant_keeps_the_contract_on_a_gpu(kind):
    assert failures(SMALL.get(kind, kind), device="cuda") == []


def test_unknown_checks_are_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="unknown check 'causality'"):
        check_variant("mha", only=["causality"])


def test_settings_are_spelled_as_on_the_command_line():
    assert short_label(GQAConfig(n_kv_head=4)) == "gqa:n_kv_head=4"
    assert short_label(MHAConfig()) == "mha"


def test_steps_are_known_before_they_run():
    assert [(check.subject, check.name) for check in checks_of("mha", only=["pairs", "same-trunk"])] == [
        ("mha", "pairs"),
        ("model", "same_trunk"),
    ]


def test_memory_is_found_wherever_it_hangs_and_views_count_once():
    class Holder:
        __slots__ = ("kept",)

        def __init__(self, kept):
            self.kept = kept

    base = torch.zeros(10, 10)
    layer = nn.Linear(3, 3)
    root = {"a": [base[:2], (base.view(-1), Holder(torch.zeros(7)))], "b": layer.weight, "c": Holder(None)}
    root["self"] = root
    assert bytes_reached(root) == 400 + 28 + 36
    assert bytes_reached(root, outside=layer) == 400 + 28
