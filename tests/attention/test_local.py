"""local: the window, its identities, decoding through the ring, and what it costs."""

import warnings

import pytest
import torch

from vgpt.attention.grammar import resolve_attention
from vgpt.attention.kernels import backends, flex
from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.local import module as local_module
from vgpt.attention.ring import RingCache
from vgpt.model import costs
from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

SWITCHES = {
    "plain": {},
    "rope": {"pos": "rope"},
    "alibi": {"pos": "alibi"},
    "sinks": {"sinks": True},
    "all": {"pos": "alibi", "sinks": True, "qk_norm": True, "out_gate": "elem"},
    "all with rope": {"pos": "rope", "sinks": True, "qk_norm": True, "out_gate": "head"},
}
# 40 tokens; the window has 7.
PIECES = {
    "one by one": [1] * 40,
    "a prompt longer than the window": [19] + [1] * 21,
    "a prompt shorter than the window": [3] + [1] * 37,
    "sevens": [7] * 5 + [5],
    "uneven": [5, 1, 1, 9, 1, 3, 20],
    "at once": [40],
}


@pytest.fixture(params=SWITCHES.values(), ids=SWITCHES.keys())
def switches(request) -> dict:
    return request.param


def in_window(T: int, W: int) -> torch.Tensor:
    return torch.tensor([[0 <= t - j < W for j in range(T)] for t in range(T)])


def gpt2_small(**changes) -> GPT2Config:
    return GPT2Config.model_validate(
        {"vocab_size": 50_257, "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "attn": "local"}
        | changes
    )


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 100])
@pytest.mark.parametrize("W", [1, 5, 64, 1000])
def test_a_layer_is_projections_around_the_loop(layer, noise, flash, T, W):
    module = layer(f"local:window_size={W}", dtype=torch.float64, flash=flash, block_size=128)
    x = noise(1, T, 32, dtype=torch.float64)
    heads = [part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in module.c_attn(x).split(32, -1)]
    want = module.c_proj(attention_by_loop(*heads, in_window(T, W)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flash", [True, False])
def test_switches_reach_the_loop_too(layer, noise, flash):
    module = layer("local:window_size=5", dtype=torch.float64, flash=flash, **SWITCHES["all"])
    x = noise(1, 30, 32, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in module.c_attn(x).split(32, -1))
    q, k = (t * (t.square().mean(-1, keepdim=True) + 1e-6).rsqrt() for t in (q, k))
    q, k = q * module.extra.q_norm.weight, k * module.extra.k_norm.weight
    y = attention_by_loop(q, k, v, in_window(30, 5), ScoreMods(None, module.extra.sink_bias, alibi_slopes(4)))
    gate = torch.nn.functional.linear(x, module.extra.gate.weight, module.extra.gate.bias).sigmoid()
    want = module.c_proj(y.transpose(1, 2).flatten(2) * gate)
    torch.testing.assert_close(module(x), want, rtol=0, atol=1e-7)  # ALiBi's slopes are float32


@pytest.mark.parametrize("W", [20, 21, 1000])
def test_a_window_of_the_whole_sequence_is_multi_head_attention(layer, noise, switches, W):
    one, other = layer("mha", **switches), layer(f"local:window_size={W}", **switches)
    other.load_state_dict(one.state_dict())
    x = noise(2, 20, 32)
    assert torch.equal(one(x), other(x))


def test_the_window_counts_the_query_itself(layer, noise):
    module = layer("local:window_size=1")
    x = noise(2, 9, 32)
    alone = torch.cat([module(token) for token in x.split(1, 1)], 1)
    torch.testing.assert_close(module(x), alone, rtol=0, atol=1e-5)
    assert resolve_attention("local:window_size=3").visible(10, torch.arange(12)).nonzero()[:, 0].tolist() == [8, 9, 10]


@pytest.mark.parametrize("W", [1, 2, 5, 9])
def test_gradients_to_the_future_and_beyond_the_window_are_exactly_zero(layer, noise, switches, W):
    module = layer(f"local:window_size={W}", **switches)
    x = noise(2, 17, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 11].sum(), x)
    reached = (gradient != 0).any(-1)
    assert reached.tolist() == [[12 - W <= t <= 11 for t in range(17)]] * 2


def test_what_lies_outside_of_the_window_changes_no_bit(layer, noise, switches):
    module = layer("local:window_size=5", **switches)
    x = noise(2, 20, 32)
    changed = x.clone()
    changed[:, :8] += 100.0
    changed[:, 13:] -= 100.0
    assert torch.equal(module(x)[:, 12], module(changed)[:, 12])


def test_each_sequence_of_a_batch_is_computed_as_if_alone(layer, noise, switches):
    module = layer("local:window_size=5", **switches)
    x = noise(4, 15, 32)
    torch.testing.assert_close(module(x)[2:3], module(x[2:3]), rtol=0, atol=1e-6)


def test_flash_and_naive_agree_with_their_gradients(layer, noise, switches):
    fast, slow = (layer("local:window_size=6", flash=flash, **switches) for flash in (True, False))
    x = noise(2, 19, 32).requires_grad_()
    outputs = [module(x) for module in (fast, slow)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    one, other = (
        torch.autograd.grad(y.square().sum(), [x, *m.parameters()]) for y, m in zip(outputs, (fast, slow), strict=True)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_layer_passes_gradcheck(layer, noise, switches):
    module = layer("local:window_size=2", dtype=torch.float64, **switches)
    x = noise(1, 4, 32, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, x)


def test_training_under_bfloat16_autocast_stays_near_float32(layer, noise, switches):
    module = layer("local:window_size=20", block_size=128, **switches)
    x = noise(2, 100, 32).requires_grad_()
    want = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(x)
    assert (got - want).norm() < 0.02 * want.norm()
    ours, theirs = (torch.autograd.grad(y.float().square().sum(), x)[0] for y in (got, want))
    assert (ours - theirs).norm() < 0.04 * theirs.norm()


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("window", [1, 7, 39, 64])
def test_decoding_in_pieces_equals_the_full_forward(layer, noise, switches, pieces, flash, window):
    module = layer(f"local:window_size={window}", flash=flash, **switches)
    x = noise(2, 40, 32)
    with torch.no_grad():
        cache = module.make_cache(2, 45, dtype=torch.float32, device="cpu")
        parts = [module(piece, cache) for piece in x.split(pieces, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-5)
    assert cache.length == 40


def test_a_bfloat16_cache_serves_a_float32_layer(layer, noise, switches):
    module = layer("local:window_size=4", **switches)
    x = noise(2, 20, 32)
    with torch.no_grad():
        cache = module.make_cache(2, 20, dtype=torch.bfloat16, device="cpu")
        parts = [module(piece, cache) for piece in x.split([6, 1, 1, 9, 1, 2], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=0.1)
    assert parts[0].dtype == torch.float32


def test_decoding_may_continue_after_rewinding(layer, noise, switches):
    module = layer("local:window_size=6", **switches)
    x = noise(2, 30, 32)
    with torch.no_grad():
        full = module(x)
        cache = module.make_cache(2, 30, dtype=torch.float32, device="cpu")
        module(noise(2, 21, 32, seed=5), cache)
        cache.reset()
        module(torch.cat((x[:, :2], noise(2, 4, 32, seed=6)), 1), cache)
        cache.rewind(2)
        module(torch.cat((x[:, 2:14], noise(2, 1, 32, seed=7)), 1), cache)
        cache.rewind(14)
        parts = [module(piece, cache) for piece in x[:, 14:].split([1, 1, 5, 1, 8], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), full[:, 14:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("window", "max_tokens"), [(1, 40), (8, 40), (40, 40), (256, 40)])
def test_parameters_and_cache_are_as_stated(layer, switches, bias, window, max_tokens):
    module = layer(f"local:window_size={window}", bias=bias, **switches)
    assert sum(p.numel() for p in module.parameters()) == module.config.params(module.shape)
    cost = module.config.cache_cost(module.shape)
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        cache = module.make_cache(3, max_tokens, dtype=dtype, device="cpu")
        for length in (0, 1, 7, 8, 9, 33):
            cache.reset()
            if length:
                with torch.no_grad():
                    module(torch.zeros(3, length, 32), cache)
            assert cache.nbytes == 3 * cost.nbytes(length, width)
        assert cache.reserved == 3 * cost.nbytes(max_tokens, width)


@pytest.mark.parametrize("W", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("T", [1, 5, 12])
def test_the_mask_counts_the_pairs_that_are_charged(layer, T, W):
    module = layer(f"local:window_size={W}")
    mask = module.mask(0, T, 0, T)
    assert torch.equal(mask, in_window(T, W))
    assert int(mask.sum()) == module.config.pairs(T)
    assert module.config.dense_pairs(T) == T * min(T, W)
    assert torch.equal(module.mask(50, T, 50, T), mask)
    steps = sum(module.config.decode_flops(module.shape, t).attention for t in range(1, T + 1))
    assert steps == module.config.flops(module.shape, T).attention


def test_gpt2_small_with_a_window_of_256_costs_what_the_literature_says():
    config = gpt2_small()
    assert config.attn.model_dump() == {"kind": "local", "window_size": 256}
    assert config.attn.params(config.shape) == 2_362_368
    assert config.attn.params(gpt2_small(bias=False).shape) == 2_359_296
    assert costs.count_parameters(config).total == 124_439_808
    assert config.attn.flops(config.shape, 1024).attention == 688_512 * 1024
    assert config.attn.dense_flops(config.shape, 1024).attention == 786_432 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7660
    assert round(costs.palm_flops_per_token(config) / 1e9, 4) == 0.7702
    assert costs.cache_bytes(config, 1024) == costs.cache_bytes(config, 8192) == 9_216 * 1024
    assert costs.cache_read_bytes(config, 8192) == 9_216 * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
def test_a_model_generates_through_rings_what_it_generates_without(pos, dtype):
    settings = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "pos": pos}
    model = GPT2Model(GPT2Config.model_validate({**settings, "attn": "local:window_size=5"}))
    initialize(model, 0)
    decoder = Decoder(model, dtype)
    ids = torch.randint(61, (3, 40), generator=torch.Generator().manual_seed(3))
    caches = decoder.make_caches(3, 40)
    start, gap = 0, 0.0
    for n in [9, 1, 1, 12, 1, 16]:
        logits = decoder.next_logits(ids[:, start : start + n], caches)
        start += n
        gap = max(gap, float((logits - decoder.next_logits(ids[:, :start])).abs().max()))
    assert gap < (1e-5 if dtype is torch.float32 else 0.02)
    made = generate(decoder, ids[:, :9], max_new_tokens=20, seed=0)
    assert made.cache_nbytes == made.cache_analytic == made.cache_reserved == 2 * 3 * 2 * 32 * 5 * dtype.itemsize
    if dtype is torch.float32:
        assert made.tokens == generate(decoder, ids[:, :9], max_new_tokens=20, seed=0, use_cache=False).tokens


def test_whole_sequences_on_a_gpu_go_to_the_fused_kernel_with_the_same_result(layer, noise, monkeypatch):
    taken = []

    def spy(*arguments, **options):
        taken.append(arguments[0].shape[2])
        return flex.flex_attend(*arguments, **options)

    monkeypatch.setattr(flex, "has_kernel", lambda device: True)
    monkeypatch.setattr(flex, "_compiled", lambda long: flex.flex_attention)
    monkeypatch.setattr(backends, "flex_attend", spy)
    module, x = layer("local:window_size=6", n_embd=64), noise(2, 19, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        got, short = module(x), module(x[:, :6])
        cache = module.make_cache(2, 19, dtype=torch.float32, device="cpu")
        decoded = module(x, cache)
    assert taken == [19]
    torch.testing.assert_close(got, decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(short, got[:, :6], rtol=0, atol=1e-5)


def test_a_cache_is_a_ring(layer):
    cache = layer("local:window_size=3").make_cache(1, 8, dtype=torch.float32, device="cpu")
    assert isinstance(cache, RingCache)


@pytest.mark.parametrize("window", [0, -1])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        resolve_attention({"kind": "local", "window_size": window})


@pytest.mark.slow
def test_a_layer_compiles_without_a_break_in_the_graph_for_any_length(layer, noise, switches):
    module = layer("local:window_size=20", block_size=128, **switches)
    compiled = torch.compile(module, fullgraph=True)
    for T in (100, 128, 90, 15):
        x = noise(2, T, 32).requires_grad_()
        got, want = compiled(x), module(x)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        ours, theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (got, want))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 64])  # heads too narrow for FlexAttention, and wide enough
def test_a_gpu_computes_what_the_cpu_computes(layer, noise, switches, dtype, width):
    module = layer("local:window_size=20", block_size=128, n_embd=width, **switches)
    x = noise(2, 100, width)
    want = module(x).detach()
    module, x = module.to("cuda", dtype), x.to("cuda", dtype)
    with torch.no_grad():
        cache = module.make_cache(2, 100, dtype=dtype, device="cuda")
        decoded = torch.cat([module(piece, cache) for piece in x.split([50, 1, 1, 30, 18], 1)], 1)
    for y in (module(x), decoded):
        assert (y.float().cpu() - want).norm() < (2e-3 if dtype is torch.float32 else 2e-2) * want.norm()


def test_no_copy_of_the_ring_is_made_by_a_step(layer, noise, monkeypatch):
    module = layer("local:window_size=8")
    read = []
    monkeypatch.setattr(
        local_module,
        "single_query",
        lambda q, k, v, **_more: read.append((k, v)) or attend(q, k[:, :, :1], v[:, :, :1]),
    )
    with torch.no_grad():
        cache = module.make_cache(2, 30, dtype=torch.float32, device="cpu")
        module(noise(2, 20, 32), cache)
        for _ in range(5):
            module(noise(2, 1, 32), cache)
    for parts in read:
        assert all(part.is_contiguous() and part.shape[2] == 8 for part in parts)
        assert [part.data_ptr() for part in parts] == [memory.data_ptr() for memory in cache.buffers()]
