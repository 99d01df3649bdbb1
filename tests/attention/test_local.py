"""The sliding window against a loop over queries, its identities, its ring, and published costs."""

import pytest
import torch

from vgpt.attention.backends import alibi_slopes
from vgpt.attention.blocks import blocks
from vgpt.attention.flex import flex_attend
from vgpt.attention.local.banded import banded_attention
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.reference import attention_by_loop
from vgpt.attention.ring import RingCache
from vgpt.errors import VgptError
from vgpt.model import costs
from vgpt.model.config import GPT2Config


def band(T: int, W: int) -> torch.Tensor:
    """Who sees whom, row by row."""
    mask = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        mask[t, max(0, t - W + 1) : t + 1] = True
    return mask


def qkv(noise, T: int, dtype=torch.float64):
    return [noise(2, 4, T, 8, dtype=dtype, seed=seed).requires_grad_() for seed in range(3)]


WAYS = {"blocks": lambda q, k, v, W, **more: blocks(q, k, v, window=W, **more), "banded": banded_attention}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("T", "W"), [(1, 1), (7, 1), (64, 2), (63, 5), (100, 64), (70, 69), (130, 40)])
@pytest.mark.parametrize("extra", [False, True])
def test_the_window_equals_the_loop_with_its_gradients(noise, way, T, W, extra):
    inputs = qkv(noise, T)
    more = {"sinks": noise(4, dtype=torch.float64, seed=5).requires_grad_(), "slopes": alibi_slopes(4).double()}
    more = more if extra else {}
    weight = noise(2, 4, T, 8, dtype=torch.float64, seed=9)
    got = WAYS[way](*inputs, W, scale=0.3, **more)
    want = attention_by_loop(*inputs, band(T, W), 0.3, **more)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    sources = [*inputs, *([more["sinks"]] if extra else [])]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), sources) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_the_weights_computed_again_give_the_same_gradients(noise):
    inputs = qkv(noise, 50)
    results = [torch.autograd.grad(blocks(*inputs, window=20, keep=keep).sum(), inputs) for keep in (True, False)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_window_counts_the_query_itself(layer, noise):
    module = layer("local:window_size=4")
    x = noise(1, 12, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 9].sum(), x)
    reached = (gradient[0] != 0).any(-1)
    assert reached.tolist() == [6 <= t <= 9 for t in range(12)]


def test_a_window_over_everything_is_multi_head_attention(layer, noise):
    x = noise(2, 30, 32)
    torch.testing.assert_close(layer("local:window_size=30")(x), layer("mha")(x), rtol=0, atol=0)


@pytest.mark.parametrize("pos", ["rope", "alibi"])
@pytest.mark.parametrize("lengths", [[40], [1] * 40, [17, 1, 1, 1, 20], [3, 9, 28]])
def test_the_ring_continues_any_prefill(layer, noise, pos, lengths):
    module = layer("local:window_size=6", pos=pos, sinks=True)
    x = noise(2, 40, 32)
    cache = module.make_cache(2, 40, dtype=torch.float32, device="cpu")
    cost = module.config.cache_cost(module.shape)
    parts = []
    for piece in x.split(lengths, 1):
        parts.append(module(piece, cache))
        assert cache.nbytes == 2 * cost.nbytes(cache.length, 4)
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-5)
    assert cache.reserved == cache.nbytes == 2 * cost.nbytes(6, 4)


def test_a_ring_goes_back_only_as_far_as_it_still_remembers(noise):
    def rows(*positions: int) -> torch.Tensor:
        return torch.tensor(positions, dtype=torch.float32).view(1, 1, -1, 1)

    cache = RingCache(1, 100, 4, [(1, 1)], dtype=torch.float32, device="cpu")
    cache.append(rows(0, 1, 2))
    cache.rewind(1)
    assert cache.append(rows(1, 2))[0].flatten().tolist() == [0, 1, 2]
    cache.append(rows(3, 4, 5, 6))
    cache.rewind(6)
    assert cache.append(rows(6, 7))[0].flatten().tolist() == [3, 4, 5, 6, 7]
    with pytest.raises(VgptError, match="written over"):
        cache.rewind(6)
    cache.reset()
    assert cache.nbytes == 0
    with pytest.raises(VgptError, match="cannot take 101"):
        cache.append(torch.zeros(1, 1, 101, 1))


@pytest.mark.parametrize("way", WAYS)
def test_bfloat16_stays_near_float64(noise, way):
    inputs = qkv(noise, 200)
    low = [x.detach().bfloat16() for x in inputs]
    want = attention_by_loop(*inputs, band(200, 33))
    assert (WAYS[way](*low, 33).double() - want).abs().max() < 0.03


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_the_mask_for_fused_kernels_is_the_same_window(noise):
    q, k, v = (x.detach().float() for x in qkv(noise, 40))
    got = flex_attend(q, k, v, LocalConfig(window_size=7).visible, block_size=16)
    torch.testing.assert_close(got, attention_by_loop(q, k, v, band(40, 7)), rtol=0, atol=1e-5)


def test_pairs_are_those_of_the_window():
    for T, W in [(1, 1), (10, 3), (10, 10), (5, 9)]:
        config = LocalConfig(window_size=W)
        assert config.pairs(T) == int(band(T, W).sum())
        q, k = torch.arange(T)[:, None], torch.arange(T)
        assert torch.equal(config.visible(q, k), band(T, W))


def test_gpt2_small_costs_what_the_literature_says():
    config = GPT2Config(vocab_size=50_257, n_layer=12, n_head=12, n_embd=768, block_size=1024, attn="local")
    assert costs.count_parameters(config).total == 124_439_808
    assert config.attn.flops(config.shape, 1024).mixing == 688_512 * 1024
    assert config.attn.dense_flops(config.shape, 1024).mixing == 786_432 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7660
    assert costs.cache_bytes(config, 1024) == costs.cache_bytes(config, 8192) == 9_216 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "attn", ["mha", "gqa:n_kv_head=2", "local:window_size=9", "sparse:sparse_block_size=4", "linear", "mla"]
)
@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
def test_every_variant_compiles_without_a_graph_break(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    compiled = torch.compile(module, fullgraph=True)
    x = noise(2, 60, 32)
    y, want = compiled(x), module(x)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-4)
    y.sum().backward()
    torch.compiler.reset()
