"""mla: the paper's equations, and absorbed decoding that gives the same numbers without making a key or a value."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.latent.module import LatentAttention, LatentNorm
from vgpt.errors import VgptError

PLAIN, LATENT_QUERIES = "mla:kv_lora_rank=12", "mla:kv_lora_rank=12,q_lora_rank=10"
# Widths that differ from one another and from the width of a head.
UNEVEN = "mla:kv_lora_rank=7,q_lora_rank=5,qk_nope_head_dim=3,qk_rope_head_dim=6,v_head_dim=11"
SWITCHES = {"sinks": {"sinks": True}, "elem": {"out_gate": "elem"}, "both": {"sinks": True, "out_gate": "head"}}
PIECES = {"one by one": [1] * 23, "sevens": [7, 7, 7, 2], "uneven": [5, 1, 1, 9, 3, 4], "at once": [23]}


@pytest.fixture(params=["learned", "rope", "none", "alibi"])
def pos(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[PLAIN, LATENT_QUERIES, UNEVEN], ids=["plain", "latent queries", "uneven"])
def attn(request: pytest.FixtureRequest, pos: str) -> str:
    # A rotary width asked for where there is none is refused.
    return request.param if pos in ("learned", "rope") else request.param.replace("qk_rope_head_dim=6,", "")


@pytest.fixture(params=[True, False], ids=["always absorbed", "never absorbed"])
def absorbs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The form that tokens after the first piece take, forced."""
    monkeypatch.setattr(MLAConfig, "absorbing_pays", lambda *_args: request.param)
    return request.param


def by_the_equations(module: LatentAttention, x: torch.Tensor) -> torch.Tensor:
    """The layer by equations 9 to 19, with rotations as products of complex numbers and attention as a loop."""
    config, shape = module.config, module.shape
    H, c, n, e = shape.n_head, config.kv_lora_rank, config.nope_dim(shape), config.rope_dim(shape)
    B, T, _ = x.shape

    def norm(latent: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def turn(rows: torch.Tensor) -> torch.Tensor:  # (B, T, heads, e), feature i paired with i + e / 2
        angles = torch.arange(T)[:, None].double() * 10_000.0 ** (-torch.arange(0, e, 2).double() / e)
        turned = torch.complex(rows[..., : e // 2], rows[..., e // 2 :]) * torch.polar(torch.ones_like(angles), angles)[
            None, :, None
        ].to(torch.complex128)
        return torch.cat((turned.real, turned.imag), -1).to(rows.dtype)

    if config.q_lora_rank is None:
        q = x @ module.q_proj.weight.mT
    else:
        low = x @ module.q_a_proj.weight.mT + module.q_a_proj.bias
        q = norm(low, module.q_a_layernorm.weight) @ module.q_b_proj.weight.mT
    down = x @ module.kv_a_proj.weight.mT + module.kv_a_proj.bias
    latent = norm(down[..., :c], module.kv_a_layernorm.weight)
    kv = (latent @ module.kv_b_proj.weight.mT).view(B, T, H, -1)
    q = q.view(B, T, H, n + e)
    k_rope = turn(down[:, :, None, c:]).expand(-1, -1, H, -1)
    heads = torch.cat((q[..., :n], turn(q[..., n:])), -1), torch.cat((kv[..., :n], k_rope), -1), kv[..., n:]
    y = attention_by_loop(
        *(part.transpose(1, 2) for part in heads),
        torch.ones(T, T, dtype=torch.bool).tril(),
        ScoreMods(
            (n + e) ** -0.5,
            getattr(module.extra, "sink_bias", None),
            alibi_slopes(H).to(x.dtype) if shape.pos == "alibi" else None,
        ),
    ).transpose(1, 2)  # (B, T, H, v)
    if shape.out_gate != "none":
        gate = torch.sigmoid(x @ module.extra.gate.weight.mT + module.extra.gate.bias)
        y = y * gate.view(B, T, H, -1)
    return y.flatten(2) @ module.c_proj.weight.mT + module.c_proj.bias


def decoded(module: LatentAttention, x: torch.Tensor, pieces: list[int], dtype: torch.dtype) -> torch.Tensor:
    cache = module.make_cache(x.shape[0], x.shape[1] + 3, dtype=dtype, device="cpu")
    with torch.no_grad():
        return torch.cat([module(piece, cache) for piece in x.split(pieces, 1)], 1)


def test_a_layer_computes_the_papers_equations(layer, noise, attn, pos):
    module = layer(attn, pos=pos, dtype=torch.float64)
    x = noise(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(module(x), by_the_equations(module, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_sinks_and_gates_are_those_of_the_formula(layer, noise, switches, absorbs):
    for pos in ("none", "alibi"):
        module = layer(PLAIN, pos=pos, dtype=torch.float64, **switches)
        x = noise(2, 9, 32, dtype=torch.float64)
        want = by_the_equations(module, x)
        torch.testing.assert_close(module(x), want, rtol=0, atol=1e-12)
        torch.testing.assert_close(decoded(module, x, [3, 1, 5], torch.float64), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_absorbed_and_expanded_decoding_equal_the_full_forward(layer, noise, attn, pos, pieces, absorbs):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        module = layer(attn, pos=pos, dtype=dtype)
        x = noise(3, 23, 32, dtype=dtype)
        torch.testing.assert_close(decoded(module, x, pieces, dtype), module(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_without_flash_decoding_is_the_textbook_formula_on_expanded_keys(layer, noise, attn, pos, pieces, monkeypatch):
    module, fast = (layer(attn, pos=pos, flash=flash) for flash in (False, True))
    monkeypatch.setattr(module, "_absorbed", None)
    x = noise(3, 23, 32)
    torch.testing.assert_close(decoded(module, x, pieces, torch.float32), fast(x), rtol=0, atol=1e-5)


def test_decoding_over_many_pages_equals_the_full_forward(layer, noise, pos):
    module = layer(PLAIN, pos=pos, block_size=256)
    x = noise(2, 200, 32)
    pieces = [50, *[1] * 30, 90, *[1] * 30]
    torch.testing.assert_close(decoded(module, x, pieces, torch.float32), module(x), rtol=0, atol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation's result has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return out


def test_a_decoding_step_makes_no_keys_and_no_values(layer, noise):
    module = layer("mla:kv_lora_rank=6,v_head_dim=32", block_size=512)
    cache = module.make_cache(2, 320, dtype=torch.float32, device="cpu")
    with torch.no_grad(), Largest() as prefill:
        module(noise(2, 319, 32), cache)
    with torch.no_grad(), Largest() as step:
        module(noise(2, 1, 32), cache)
    values = 2 * 320 * 4 * 32
    assert prefill.numbers > 0.9 * values
    # The largest thing that a step touches is the cache itself, or the scores.
    assert step.numbers <= 2 * 320 * max(6 + 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_holds_latents_and_shared_keys_and_nothing_else(layer, noise, attn, pos, dtype):
    module = layer(attn, pos=pos)
    cost = module.config.cache_cost(module.shape)
    before = set(vars(module))
    cache = module.make_cache(3, 40, dtype=dtype, device="cpu")
    for length in (1, 7, 33, 40):
        cache.reset()
        decoded_so_far = [length // 2, *[1] * (length - length // 2)] if length > 1 else [1]
        with torch.no_grad():
            for piece in noise(3, length, 32).split(decoded_so_far, 1):
                module(piece, cache)
        assert cache.nbytes == 3 * cost.nbytes(length, dtype.itemsize)
        tensors = [t for t in tree_leaves(list(vars(cache).values())) if isinstance(t, torch.Tensor)]
        assert {t.untyped_storage().data_ptr() for t in tensors} == {cache.buffers()[0].untyped_storage().data_ptr()}
        assert cache.buffers()[0].untyped_storage().nbytes() == cache.reserved == 3 * cost.nbytes(40, dtype.itemsize)
    assert set(vars(module)) == before


def test_the_cache_holds_the_normed_latent_and_the_turned_key(layer, noise):
    module = layer(PLAIN, pos="rope", dtype=torch.float64)
    x = noise(2, 9, 32, dtype=torch.float64)
    cache = module.make_cache(2, 9, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        module(x, cache)
        latent, key = module.kv_a_proj(x).split([12, 4], -1)
        (rows,) = cache.stored()
        torch.testing.assert_close(rows[:, 0, :, :12], module.kv_a_layernorm(latent), rtol=0, atol=1e-12)
        # A rotation keeps lengths, and leaves the first token as it is.
        torch.testing.assert_close(rows[:, 0, :, 12:].norm(dim=-1), key.norm(dim=-1), rtol=1e-6, atol=0)
        torch.testing.assert_close(rows[:, 0, 0, 12:], key[:, 0], rtol=0, atol=1e-12)


def test_changed_weights_are_seen_by_the_next_decoding(layer, noise):
    module = layer(PLAIN, dtype=torch.float64)
    x = noise(2, 8, 32, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(decoded(module, x, [1] * 8, torch.float64), module(x), rtol=0, atol=1e-12)
        with torch.no_grad():
            module.kv_b_proj.weight.data.mul_(-1.7)  # as fused optimizers do, without a trace in the version counter


def test_decoding_may_continue_after_rewinding(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(2, 12, 32)
    with torch.no_grad():
        cache = module.make_cache(2, 12, dtype=torch.float32, device="cpu")
        module(noise(2, 12, 32, seed=5), cache)
        cache.reset()
        module(x[:, :9], cache)
        cache.rewind(4)
        torch.testing.assert_close(module(x[:, 4:5], cache), module(x)[:, 4:5], rtol=0, atol=1e-5)
        torch.testing.assert_close(module(x[:, 5:], cache), module(x)[:, 5:], rtol=0, atol=1e-5)
        with pytest.raises(VgptError, match="holds 12 tokens"):
            module(x[:, :1], cache)


def test_gradients_to_later_inputs_are_exactly_zero(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(2, 17, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 8].sum(), x)
    assert (gradient[:, 9:] == 0).all()
    assert (gradient[:, :9] != 0).any(-1).all()


def test_the_output_does_not_depend_on_what_follows_or_on_the_rest_of_the_batch(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    x = noise(4, 20, 32)
    changed = x.clone()
    changed[:, 12:] += 100.0
    assert torch.equal(module(x)[:, :12], module(changed)[:, :12])
    torch.testing.assert_close(module(x)[2:3], module(x[2:3]), rtol=0, atol=1e-6)


def test_flash_and_naive_agree_with_their_gradients(layer, noise, attn, pos):
    fast, slow = (layer(attn, pos=pos, flash=flash, sinks=True) for flash in (True, False))
    for T in (19, 200):  # by the fused kernel, and by blocks
        x = noise(2, T, 32).requires_grad_()
        outputs = [module(x) for module in (fast, slow)]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
        one, other = (
            torch.autograd.grad(y.square().mean(), [x, *m.parameters()])
            for y, m in zip(outputs, (fast, slow), strict=True)
        )
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_layer_passes_gradcheck(layer, noise, attn, pos):
    module = layer(attn, pos=pos, dtype=torch.float64)
    x = noise(1, 4, 32, dtype=torch.float64).requires_grad_()
    parameters = list(module.parameters())
    names = [name for name, _ in module.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_every_parameter_takes_part(layer, noise, attn, pos):
    module = layer(attn, pos=pos, sinks=True, out_gate="elem")
    module(noise(2, 7, 32)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_variant_that_only_says_who_sees_whom_can_reuse_the_module(layer, noise, absorbs):
    class Neighbors(MLAConfig):
        def visible(self, q, k, layer=0, head=0):
            return (k <= q) & (q - k < 2)

    plain = layer(PLAIN)
    module = LatentAttention(Neighbors(kv_lora_rank=12), plain.shape)
    module.load_state_dict(plain.state_dict())
    x = noise(1, 8, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 6].sum(), x)
    assert (gradient[0].abs().sum(-1) != 0).tolist() == [False] * 5 + [True, True, False]
    torch.testing.assert_close(decoded(module, x, [3, 1, 4], torch.float32), module(x), rtol=0, atol=1e-6)


def test_the_projections_have_deepseeks_names(layer):
    direct = {"q_proj.weight", "kv_a_proj.weight", "kv_a_proj.bias", "kv_a_layernorm.weight", "kv_b_proj.weight"}
    direct |= {"c_proj.weight", "c_proj.bias"}
    assert set(layer(PLAIN).state_dict()) == direct
    latent = {"q_a_proj.weight", "q_a_proj.bias", "q_a_layernorm.weight", "q_b_proj.weight"}
    assert set(layer(LATENT_QUERIES).state_dict()) == direct - {"q_proj.weight"} | latent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_norm_of_a_latent_is_computed_wide(dtype):
    norm = LatentNorm(8)
    with torch.no_grad():
        norm.weight.fill_(1.0)
    x = torch.full((1, 8), 3e4, dtype=dtype)  # squared, beyond float16
    y = norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.ones_like(y), rtol=0, atol=1e-6)
    small = torch.full((1, 8), 1e-3, dtype=torch.float64)
    torch.testing.assert_close(norm(small), torch.full_like(small, 0.5**0.5), rtol=0, atol=1e-8)  # eps is 1e-6
