"""Grouped attention against the layers of transformers."""

import warnings

import pytest
import torch

pytestmark = pytest.mark.oracle
T = 19


def additive_mask() -> torch.Tensor:
    return torch.full((T, T), -torch.inf).triu(1)[None, None]


def llama_attention(module):
    """Llama's attention layer with the weights of `module`, and its rotary embedding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
    shape, G = module.shape, module.kv_heads
    config = LlamaConfig(
        hidden_size=shape.n_embd,
        num_attention_heads=shape.n_head,
        num_key_value_heads=G,
        num_hidden_layers=1,
        attention_bias=True,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    theirs = LlamaAttention(config, 0).eval()
    D = shape.head_dim
    weights = module.c_attn.weight.split([shape.n_head * D, G * D, G * D])
    biases = module.c_attn.bias.split([shape.n_head * D, G * D, G * D])
    with torch.no_grad():
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            projection = getattr(theirs, f"{name}_proj")
            projection.weight.copy_(weight)
            projection.bias.copy_(bias)
        theirs.o_proj.weight.copy_(module.c_proj.weight)
        theirs.o_proj.bias.copy_(module.c_proj.bias)
    return theirs, LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("attn", ["gqa:n_kv_head=4", "gqa:n_kv_head=2", "gqa:n_kv_head=1"])
@pytest.mark.parametrize("pos", ["rope", "none"])
def test_gqa_equals_llamas_grouped_attention(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    theirs, rotary = llama_attention(module)
    x = noise(2, T, 32)
    # Llama without positions: every token at position 0 is rotated by nothing.
    positions = torch.arange(T)[None] * (pos == "rope")
    with torch.no_grad():
        want = theirs(hidden_states=x, attention_mask=additive_mask(), position_embeddings=rotary(x, positions))[0]
        torch.testing.assert_close(module(x), want, rtol=0, atol=1e-5)


def test_mqa_equals_gpt_bigcodes_multi_query_attention(layer, noise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        from transformers import GPTBigCodeConfig
        from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention
    module = layer("mqa")
    config = GPTBigCodeConfig(n_embd=32, n_head=4, multi_query=True, attn_implementation="eager")
    theirs = GPTBigCodeAttention(config, layer_idx=0).eval()
    theirs.load_state_dict(module.state_dict(), strict=False)
    x = noise(2, T, 32)
    with torch.no_grad():
        want = theirs(x, attention_mask=additive_mask())[0]
        torch.testing.assert_close(module(x), want, rtol=0, atol=1e-5)
