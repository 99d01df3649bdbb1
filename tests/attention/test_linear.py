"""The linear variant as a layer: its formula for every setting, decoding from a constant state, stated costs."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.kernels.rope import apply_rotary, rotary_tables
from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear.cache import StateCache
from vgpt.attention.linear.config import LinearConfig
from vgpt.errors import SettingsError, VgptError
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, count_parameters, palm_flops_per_token, train_flops_per_token
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

SETTINGS = [
    *(f"linear:feature_map={m},linear_norm={n}" for m in ("elu1", "relu", "taylor2") for n in ("denom", "rms", "none")),
    "linear:feature_map=identity,linear_norm=rms",
    "linear:feature_map=identity,linear_norm=none",
]
POSITIONS = ["learned", "none", "rope", "alibi"]
SMALL = Shape(768, 12, 1024)


def by_hand(module, x: torch.Tensor) -> torch.Tensor:
    """The layer's formula over all pairs of tokens, features as the papers write them."""
    config, shape = module.config, module.shape
    T, D, norm = x.shape[1], shape.head_dim, config.linear_norm
    q, k, v = (part.unflatten(-1, (shape.n_head, D)) for part in module.c_attn(x).split(shape.n_embd, -1))
    if shape.qk_norm:
        q, k = (
            y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w
            for y, w in ((q, module.extra.q_norm.weight), (k, module.extra.k_norm.weight))
        )

    def turned(y):
        tables = rotary_tables(0, T, D, shape.rope_base, torch.device("cpu"))
        return apply_rotary(y, *tables) if shape.pos == "rope" else y

    def products(q, k):
        return torch.einsum("bthd,bshd->bhts", q, k)

    if config.feature_map == "taylor2":
        s = products(turned(q), turned(k)) / D**0.5
        above = below = 1 + s + s**2 / 2
    else:
        phi = {"elu1": lambda y: F.elu(y) + 1, "relu": F.relu, "identity": lambda y: y}[config.feature_map]
        above, below = products(turned(phi(q)), turned(phi(k))), products(phi(q), phi(k))
    past = torch.ones(T, T, dtype=torch.bool).tril()
    weight = past.to(x.dtype)
    if shape.pos == "alibi":
        distance = torch.arange(T)[:, None] - torch.arange(T)
        weight = torch.where(past, torch.exp(-alibi_slopes(shape.n_head).to(x.dtype)[:, None, None] * distance), 0.0)
    y = torch.einsum("bhts,bshd->bthd", above * weight, v)
    y = y / ((below * weight).sum(-1).transpose(1, 2)[..., None] + 1e-6 if norm == "denom" else D**0.5)
    if norm == "rms":
        y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    y = y.flatten(2)
    if shape.out_gate != "none":
        gate = torch.sigmoid(module.extra.gate(x))
        y = y * (gate if shape.out_gate == "elem" else gate.repeat_interleave(D, -1))
    return module.c_proj(y)


@pytest.fixture(params=SETTINGS)
def setting(request) -> str:
    return request.param


@pytest.fixture(params=POSITIONS)
def pos(request) -> str:
    return request.param


def agree(module, x, want_module=by_hand, tolerance=1e-9):
    x.requires_grad_()
    got, want = module(x), want_module(module, x)
    scale = max(1.0, want.detach().abs().max())
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=1e-11)
    one, other = (torch.autograd.grad((y / scale).sin().sum(), [x, *module.parameters()]) for y in (got, want))
    for a, b in zip(one, other, strict=True):
        size = max(1.0, b.abs().max())
        torch.testing.assert_close(a / size, b / size, rtol=0, atol=tolerance)


@pytest.mark.parametrize("flash", [True, False])
def test_a_layer_is_its_formula_with_every_setting_and_position(layer, noise, setting, pos, flash):
    module = layer(f"{setting},chunk_size=16", pos=pos, flash=flash, dtype=torch.float64)
    agree(module, noise(2, 37, 32, dtype=torch.float64))


@pytest.mark.parametrize("switches", [{"qk_norm": True}, {"out_gate": "head"}, {"out_gate": "elem", "qk_norm": True}])
def test_norms_of_queries_and_keys_and_gates_act_as_with_a_softmax(layer, noise, pos, switches):
    module = layer("linear:chunk_size=8", pos=pos, dtype=torch.float64, **switches)
    agree(module, noise(2, 21, 32, dtype=torch.float64))


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 100, 300])
def test_the_default_layer_is_its_formula_at_any_length(layer, noise, T):
    agree(layer("linear", dtype=torch.float64, block_size=300), noise(1, T, 32, dtype=torch.float64))


@pytest.mark.parametrize("pieces", [[1] * 23, [7, 7, 7, 2], [5, 1, 1, 9, 3, 4], [23]], ids=str)
def test_decoding_in_pieces_equals_the_full_forward(layer, noise, setting, pos, pieces):
    limits = {torch.float32: 1e-5, torch.float64: 1e-11}
    for dtype, flash in ((torch.float32, True), (torch.float64, True), (torch.float64, False)):
        module = layer(f"{setting},chunk_size=4", pos=pos, flash=flash, dtype=dtype)
        x = noise(3, 23, 32, dtype=dtype)
        with torch.no_grad():
            full = module(x)
            cache = module.make_cache(3, 30, dtype=dtype, device="cpu")
            parts = [module(piece, cache) for piece in x.split(pieces, 1)]
        assert cache.length == 23
        torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=limits[dtype] * max(1.0, full.abs().max()))


def test_steps_with_gradients_equal_steps_without(layer, noise, pos):
    module = layer("linear", pos=pos)
    x = noise(2, 6, 32)
    cache, other = (module.make_cache(2, 6, dtype=torch.float32, device="cpu") for _ in range(2))
    for token in x.split(1, 1):
        y = module(token, cache)
        gradients = torch.autograd.grad(y.sum(), list(module.parameters()))
        assert all(g.isfinite().all() for g in gradients)
        with torch.no_grad():
            torch.testing.assert_close(module(token, other), y, rtol=0, atol=1e-5)
    assert not cache.state.requires_grad


def test_a_long_decode_in_bfloat16_keeps_a_float32_state_and_its_accuracy(layer, noise):
    module, x = layer("linear", block_size=2048), noise(1, 2048, 32).bfloat16()
    exact = module.double()(x.double())
    module = module.bfloat16()
    cache = module.make_cache(1, 2048, dtype=torch.bfloat16, device="cpu")
    with torch.inference_mode():
        module(x[:, :1024], cache)
        parts = [module(token, cache) for token in x[:, 1024:].split(1, 1)]
    assert cache.state.dtype == torch.float32
    error = (torch.cat(parts, 1).double() - exact[:, 1024:]).abs().max() / exact.abs().max()
    assert error < 0.02


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.02), (torch.float16, 2e-3)])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_of_real_width_stays_accurate_over_thousands_of_tokens(layer, noise, pos, dtype, limit, autocast):
    shape = {"n_embd": 128, "n_head": 2, "block_size": 8192, "pos": pos}
    module, exact, x = layer("linear", **shape), layer("linear", dtype=torch.float64, **shape), noise(1, 8192, 128)
    with torch.no_grad():
        want = exact(x.double())
        if autocast:
            with torch.autocast("cpu", dtype):
                got = module(x)
        else:
            got = module.to(dtype)(x.to(dtype))
    late = slice(4096, None)  # means over thousands of values, and small: the error is held against their size
    assert got.dtype == dtype
    assert (got.double() - want)[:, late].norm() / want[:, late].norm() < limit


def test_gradients_to_later_inputs_are_exactly_zero(layer, noise, setting, pos):
    module = layer(f"{setting},chunk_size=6", pos=pos)
    x = noise(2, 17, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 8].sum(), x)
    assert (gradient[:, 9:] == 0).all()
    assert (gradient[:, :9] != 0).any(-1).all()


def test_the_output_depends_on_neither_what_follows_nor_who_is_beside(layer, noise, pos):
    module = layer("linear:chunk_size=8", pos=pos)
    x = noise(3, 20, 32)
    changed = x.clone()
    changed[:, 13:] += 100.0
    assert torch.equal(module(x)[:, :13], module(changed)[:, :13])
    torch.testing.assert_close(module(x[:, :13]), module(x)[:, :13], rtol=0, atol=1e-6)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=0, atol=1e-6)


def test_a_layer_passes_gradcheck(layer, noise, setting, pos):
    module = layer(f"{setting},chunk_size=2", pos=pos, dtype=torch.float64)
    x = noise(1, 5, 32, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, x, fast_mode=True)


def test_without_differences_between_keys_outputs_are_running_means(layer, noise):
    module = layer("linear:chunk_size=4", bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.c_attn.weight[:64] = 0
    x = noise(2, 11, 32, dtype=torch.float64)
    means = module.c_attn(x)[..., 64:].cumsum(1) / torch.arange(1, 12)[:, None]
    torch.testing.assert_close(module(x), module.c_proj(means), rtol=0, atol=1e-6)


def test_one_token_sees_itself_alone(layer, noise):
    module = layer("linear", dtype=torch.float64)
    x = noise(2, 1, 32, dtype=torch.float64)
    torch.testing.assert_close(module(x), module.c_proj(module.c_attn(x)[..., 64:]), rtol=0, atol=1e-6)


def test_identity_without_a_norm_is_softmax_attention_without_the_softmax(layer, noise):
    module = layer("linear:feature_map=identity,linear_norm=none", pos="rope", dtype=torch.float64)
    mha = layer("mha", pos="rope", dtype=torch.float64)
    mha.load_state_dict(module.state_dict())
    x = noise(1, 9, 32, dtype=torch.float64)
    q, k, v = mha._heads(x, 0)
    y = ((q @ k.mT).tril() @ v) / 8**0.5
    torch.testing.assert_close(module(x), module.c_proj(y.transpose(1, 2).flatten(2)), rtol=0, atol=1e-10)


def test_only_the_relative_position_counts_under_rope(layer, noise):
    # A prefix with values and keys of zero changes no sum: what follows is as if it stood first.
    module = layer("linear:feature_map=identity,linear_norm=rms", pos="rope", bias=False, dtype=torch.float64)
    x = noise(1, 9, 32, dtype=torch.float64)
    shifted = torch.cat((torch.zeros(1, 5, 32, dtype=torch.float64), x), 1)
    torch.testing.assert_close(module(shifted)[:, 5:], module(x), rtol=0, atol=1e-5)


def test_the_state_is_as_large_as_stated_at_any_length_batch_and_precision(layer, setting, pos):
    module = layer(setting, pos=pos)
    cost = module.config.cache_cost(module.shape)
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        for most in (1, 1000):
            cache = module.make_cache(3, most, dtype=dtype, device="cpu")
            assert cache.reserved == cache.nbytes
            for length in (0, 1, 7, 33):
                cache.reset()
                if length:
                    with torch.no_grad():
                        module(torch.zeros(3, length, 32), cache)
                assert cache.nbytes == 3 * cost.nbytes(length, width)


def test_a_state_goes_back_to_nothing_and_nowhere_else(layer, noise):
    module = layer("linear")
    x = noise(2, 12, 32)
    with torch.no_grad():
        cache = module.make_cache(2, 12, dtype=torch.float32, device="cpu")
        module(x[:, :5], cache)
        cache.rewind(5)
        with pytest.raises(VgptError, match="holds 5 tokens as one sum and cannot go back to 3"):
            cache.rewind(3)
        cache.reset()
        assert cache.length == 0
        torch.testing.assert_close(module(x, cache), module(x), rtol=0, atol=1e-6)
    assert isinstance(cache, StateCache)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("switches", [{}, {"qk_norm": True, "out_gate": "head"}, {"out_gate": "elem"}])
def test_parameters_are_as_stated_and_those_of_mha(layer, setting, bias, switches):
    module, mha = (layer(name, bias=bias, **switches) for name in (setting, "mha"))
    assert sum(p.numel() for p in module.parameters()) == module.config.params(module.shape)
    assert {n: p.shape for n, p in module.named_parameters()} == {n: p.shape for n, p in mha.named_parameters()}
    matrices = sum(p.numel() for p in module.parameters() if p.ndim == 2)
    assert matrices == module.config.matmul_params(module.shape)


@pytest.mark.parametrize("chunk_size", [16, 64])
def test_flops_within_one_chunk_are_those_that_torch_counts(layer, setting, pos, chunk_size):
    module = layer(f"{setting},chunk_size={chunk_size}", pos=pos)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.zeros(3, 16, 32))
    assert counter.get_total_flops() == 3 * module.config.dense_flops(module.shape, 16).total


def test_flops_of_many_chunks_are_those_that_torch_counts_with_a_state_at_both_ends(layer, setting, pos):
    module = layer(f"{setting},chunk_size=8", pos=pos)
    cache = module.make_cache(2, 64, dtype=torch.float32, device="cpu")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.zeros(2, 29, 32), cache)
    assert counter.get_total_flops() == 2 * module.config.dense_flops(module.shape, 29).total


def test_costs_of_gpt2_small_are_those_of_the_literature():
    config = LinearConfig()
    assert config.flops(SMALL, 1024).attention == 1024 * 300_300
    assert config.dense_flops(SMALL, 1024).attention == 1024 * 397_824
    for length in (1, 1024, 100_000):
        assert config.decode_flops(SMALL, length).attention == 199_680
        assert config.cache_cost(SMALL).nbytes(length, 2) == 195 * 1024
    assert config.params(SMALL) == 2_362_368
    model = GPT2Config(attn=config, n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257)
    assert count_parameters(model).total == 124_439_808
    assert cache_bytes(model, 1024) == cache_bytes(model, 8192) == 2_340 * 1024
    assert round(train_flops_per_token(model) / 1e9, 4) == 0.7520
    assert round(palm_flops_per_token(model) / 1e9, 4) == 0.7562
    mha = model.model_copy(update={"attn": resolve_attention("mha")})
    assert cache_bytes(mha, 65) == cache_bytes(model, 65)
    assert cache_bytes(mha, 64) < cache_bytes(model, 64)


def test_states_of_taylor_features_and_without_a_denominator_have_their_sizes():
    taylor = LinearConfig(feature_map="taylor2")
    assert taylor.feature_dim(SMALL) == 2_145
    assert taylor.cache_cost(SMALL).fixed == 12 * 2_145 * 65
    assert LinearConfig(linear_norm="rms").cache_cost(SMALL).fixed == 12 * 64 * 64


@pytest.mark.parametrize(
    ("attn", "shape", "sentence"),
    [
        ("linear:feature_map=identity", {}, "--feature-map identity does not go with --linear-norm denom"),
        ("linear", {"sinks": True}, "--sinks does not apply to --attn linear: there is no softmax"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(layer, attn, shape, sentence):
    with pytest.raises(SettingsError, match=sentence):
        layer(attn, **shape)


def test_positions_that_act_in_another_way_than_on_a_softmax_are_named():
    said = {pos: LinearConfig().confounds(Shape(32, 4, 64, pos=pos)) for pos in POSITIONS}
    assert (said["learned"], said["none"]) == ([], [])
    assert "decay" in said["alibi"][0]
    assert "denominator" in said["rope"][0]
    assert LinearConfig(linear_norm="rms").confounds(Shape(32, 4, 64, pos="rope")) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_generates_through_states_what_it_generates_without(dtype):
    config = GPT2Config(attn=LinearConfig(), n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=50, pos="none")
    model = GPT2Model(config)
    initialize(model, 1)
    decoder = Decoder(model, dtype)
    prompts = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(0))
    one, other = (
        generate(decoder, prompts, max_new_tokens=12, temperature=0.0, seed=0, use_cache=cached)
        for cached in (True, False)
    )
    if dtype is torch.float32:
        assert one.tokens == other.tokens
    assert one.cache_nbytes == one.cache_analytic == one.cache_reserved == 3 * cache_bytes(config, 1, dtype.itemsize)


@pytest.mark.slow
@pytest.mark.parametrize("attn", ["linear:chunk_size=16", "linear:feature_map=taylor2,chunk_size=16"])
def test_training_compiles_without_a_break(layer, noise, attn, pos):
    module, x = layer(attn, pos=pos), noise(2, 40, 32).requires_grad_()
    compiled = torch.compile(module, fullgraph=True)
    one, other = (torch.autograd.grad(f(x).sin().sum(), [x, *module.parameters()]) for f in (compiled, module))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
