"""Query/key norms, sinks, gates and ALiBi in a layer, against other libraries and against the formula."""

import warnings
from typing import ClassVar

import pytest
import torch

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters
from vgpt.model.gpt2 import GPT2Model

T = 19
ALL = {"qk_norm": True, "sinks": True, "out_gate": "elem", "pos": "alibi"}


def masked() -> torch.Tensor:
    return torch.full((T, T), -torch.inf).triu(1)[None, None]


def filled(theirs, module, **more: torch.Tensor):
    """Give a layer in Llama's naming the weights of ours."""
    D, G = module.shape.head_dim, module.kv_heads
    sizes = [module.shape.n_head * D, G * D, G * D]
    state = {"o_proj.weight": module.c_proj.weight, "o_proj.bias": module.c_proj.bias, **more}
    for name, weight, bias in zip(
        "qkv", module.c_attn.weight.split(sizes), module.c_attn.bias.split(sizes), strict=True
    ):
        state |= {f"{name}_proj.weight": weight, f"{name}_proj.bias": bias}
    theirs.load_state_dict({name: value for name, value in state.items() if name in theirs.state_dict()})
    return theirs.eval()


@pytest.mark.oracle
def test_query_and_key_norms_are_those_of_qwen3(layer, noise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        from transformers import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding
    module = layer("gqa:n_kv_head=2", pos="rope", qk_norm=True)
    config = Qwen3Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=1,
        attention_bias=True,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    norms = {"q_norm.weight": module.extra.q_norm.weight, "k_norm.weight": module.extra.k_norm.weight}
    theirs = filled(Qwen3Attention(config, 0), module, **norms)
    x = noise(2, T, 32)
    rotary = Qwen3RotaryEmbedding(config)(x, torch.arange(T)[None])
    with torch.no_grad():
        want = theirs(hidden_states=x, attention_mask=masked(), position_embeddings=rotary)[0]
        torch.testing.assert_close(module(x), want, rtol=0, atol=1e-5)


@pytest.mark.oracle
def test_sinks_are_those_of_gpt_oss(layer, noise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        from transformers import GptOssConfig
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention
    module = layer("gqa:n_kv_head=2", pos="none", sinks=True)
    config = GptOssConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        attn_implementation="eager",
    )
    theirs = filled(GptOssAttention(config, 0), module, sinks=module.extra.sink_bias)
    x = noise(2, T, 32)
    unturned = (torch.ones(1, T, 4), torch.zeros(1, T, 4))
    with torch.no_grad():
        want = theirs(hidden_states=x, attention_mask=masked(), position_embeddings=unturned)[0]
        torch.testing.assert_close(module(x), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gate", ["head", "elem"])
def test_a_layer_with_every_switch_is_the_formula(layer, noise, gate):
    module = layer("gqa:n_kv_head=2", dtype=torch.float64, **{**ALL, "out_gate": gate})
    x = noise(2, T, 32, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in module.c_attn(x).split([32, 16, 16], -1))
    norms = (module.extra.q_norm, module.extra.k_norm)
    q, k = (
        y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * n.weight for y, n in zip((q, k), norms, strict=True)
    )
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    y = attention_by_loop(q, k, v, causal, ScoreMods(None, module.extra.sink_bias, alibi_slopes(4).double()))
    y = y.transpose(1, 2)  # (B, T, H, D)
    y = y * torch.sigmoid(module.extra.gate(x)).view(2, T, 4, -1)
    torch.testing.assert_close(module(x), module.c_proj(y.flatten(-2)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("flash", [True, False])
def test_every_switch_decodes_as_it_trains(layer, noise, flash):
    module = layer("mqa", flash=flash, **ALL)
    x = noise(2, T, 32)
    cache = module.make_cache(2, T, dtype=torch.float32, device="cpu")
    parts = [module(part, cache) for part in x.split([6, 1, 1, 4, 7], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "switch", [{"qk_norm": True}, {"sinks": True}, {"out_gate": "head"}, {"out_gate": "elem"}, ALL]
)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_switches_are_counted(switch, bias):
    config = GPT2Config(vocab_size=9, n_layer=2, n_head=4, n_embd=32, block_size=8, attn="mqa", bias=bias, **switch)
    counted = count_parameters(config)
    model = GPT2Model(config)
    assert counted.total == sum(p.numel() for p in model.parameters())
    weights = [m.weight for m in model.h[0].attn.modules() if isinstance(m, torch.nn.Linear)]
    assert config.attn.matmul_params(config.shape) == sum(weight.numel() for weight in weights)


def test_a_variant_refuses_what_it_does_not_honor():
    class Deaf(AttentionConfig):
        """Knows no switches."""

        unsupported: ClassVar[dict[str, str]] = {"sinks": "it has no softmax"}

    faults = Deaf().check(Shape(32, 4, 8, qk_norm=True, sinks=True, out_gate="head", pos="alibi"))
    assert [fault.split(" does")[0] for fault in faults] == ["--qk-norm", "--out-gate", "--sinks", "--pos alibi"]
    assert faults[2].endswith(": it has no softmax")
    assert resolve_attention("mha").check(Shape(32, 4, 8, qk_norm=True, sinks=True, out_gate="head", pos="alibi")) == []
