import pytest
import torch

from vgpt.attention.build import build_attention
from vgpt.attention.grammar import full_label, resolve_attention
from vgpt.evaluation.tasks.registry import resolve_task
from vgpt.probe.model import ShortConvolution, SmallModel
from vgpt.probe.recipe import Recipe
from vgpt.settings.probe import ProbeConfig

LABELS = [
    "mha",
    "gqa:n_kv_head=2",
    "local:window_size=8",
    "linear",
    "mla:kv_lora_rank=32",
    "sparse:sparse_block_size=4",
]


def recipe(task="mqar", **model):
    return Recipe.of(resolve_task(task), ProbeConfig.model_validate({"model": model}))


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_models_of_two_variants_start_from_the_same_weights_outside_of_their_mixers(init):
    one, other = (dict(SmallModel(recipe(init=init), attn, 3).named_parameters()) for attn in ("mha", "linear"))
    shared = [name for name in one if not name.startswith("h.1.attn.")]
    assert {"wte.weight", "h.0.attn.conv.weight", "h.0.attn.gate.bias", "h.1.ln_1.weight"} < set(shared)
    assert all(torch.equal(one[name], other[name]) for name in shared)
    assert not torch.equal(one["wte.weight"], SmallModel(recipe(init=init), "mha", 4).wte.weight)


def test_every_parameter_of_every_variant_is_filled():
    for label in [*LABELS, "gru"]:
        name = label if label == "gru" else full_label(resolve_attention(label))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            one = SmallModel(recipe(pos="rope"), name, 0)
            torch.manual_seed(2)
            other = SmallModel(recipe(pos="rope"), name, 0)
        for (parameter, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), f"{label}: {parameter} depends on torch's global stream"
            assert a.isfinite().all(), f"{label}: {parameter}"


def test_the_short_convolution_is_the_gated_sum_over_three_tokens():
    torch.manual_seed(0)
    layer = ShortConvolution(4)
    x = torch.randn(2, 6, 4)
    y = layer(x)
    weight, bias = layer.conv.weight[:, 0], layer.conv.bias
    for t in range(6):
        mixed = bias + sum(weight[:, 2 - back] * x[:, t - back] for back in range(min(3, t + 1)))
        assert torch.allclose(y[:, t], mixed * (x[:, t] @ layer.gate.weight.T + layer.gate.bias), atol=1e-6)


@pytest.mark.parametrize("label", LABELS)
def test_the_state_on_the_card_is_what_the_caches_measure(label):
    small = recipe("mqar:test_lengths=64")
    name = full_label(resolve_attention(label))
    for tokens in (32, 64):
        measured = 0
        for index, config in enumerate(small.layers(resolve_attention(name))):
            layer = build_attention(config, small.shape, index)
            cache = layer.make_cache(1, tokens, dtype=torch.float32, device="cpu")
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter)
            with torch.no_grad():
                layer(torch.randn(1, tokens, small.n_embd), cache)
            measured += cache.nbytes
        assert small.state_bytes(name, tokens) == measured


def test_without_convolution_every_layer_holds_the_variant_and_with_an_mlp_each_has_one():
    plain = SmallModel(recipe("parity", mlp=True), full_label(resolve_attention("mha")), 0)
    names = {name.split(".")[2] for name, _ in plain.named_parameters() if name.startswith("h.")}
    assert names == {"ln_1", "attn", "ln_2", "mlp"}
    assert not any(isinstance(module, ShortConvolution) for module in plain.modules())


def test_a_pattern_of_layers_fills_the_mixers_in_order():
    small = recipe(n_layer=3)
    layers = small.layers(resolve_attention("local:window_size=4+mha"))
    assert [layer.kind for layer in layers] == ["local", "mha"]
