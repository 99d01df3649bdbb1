"""Linear attention against the recurrence written as a loop, its numerics, its state, and published costs."""

import itertools

import pytest
import torch

from vgpt.attention.backends import alibi_slopes
from vgpt.attention.config import Shape
from vgpt.attention.linear.chunked import chunked_linear_attention, recurrent_step
from vgpt.attention.linear.features import FEATURE_MAPS, elu1, taylor2
from vgpt.attention.linear.module import EPS
from vgpt.attention.registry import resolve_attention
from vgpt.attention.rope import rotary_tables, rotate
from vgpt.errors import VgptError
from vgpt.model import costs
from vgpt.model.config import GPT2Config

FORMS = [
    f"linear:feature_map={m},linear_norm={n}" for m, n in itertools.product(FEATURE_MAPS, ("denom", "rms", "none"))
]
FORMS.remove("linear:feature_map=identity,linear_norm=denom")


def loop(q, k, v, state, decay=1.0):
    """Eq. 16-20 of the paper, token by token."""
    rows = []
    for t in range(q.shape[2]):
        state = state * decay + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None, :] @ state)[:, :, 0])
    return torch.stack(rows, 2), state


@pytest.mark.parametrize(("T", "chunk"), [(1, 4), (2, 1), (13, 4), (64, 16), (65, 64), (100, 300)])
@pytest.mark.parametrize("decay", [False, True])
def test_chunks_equal_the_recurrence_with_gradients(noise, T, chunk, decay):
    q, k, v, state = (
        noise(2, 3, *size, dtype=torch.float64, seed=i).requires_grad_()
        for i, size in enumerate([(T, 5), (T, 5), (T, 4), (5, 4)])
    )
    rate = torch.tensor([-0.1, -0.7, -2.0], dtype=torch.float64) if decay else None
    got = chunked_linear_attention(q, k, v, chunk=chunk, state=state, log_decay=rate)
    want = loop(q, k, v, state, rate.exp().view(3, 1, 1) if decay else 1.0)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    grads = [torch.autograd.grad(y.sin().sum() + s.cos().sum(), (q, k, v, state)) for y, s in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    if T == 1:
        step = recurrent_step(q, k, v, state, rate)
        for a, b in zip(step, want, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_gradients_pass_gradcheck(noise):
    inputs = [noise(1, 2, 7, 3, dtype=torch.float64, seed=i).requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(lambda *x: chunked_linear_attention(*x, chunk=3), inputs)
    assert torch.autograd.gradcheck(elu1, noise(20, dtype=torch.float64).requires_grad_())


def test_elu1_keeps_its_precision_far_below_zero():
    x = torch.tensor([-20.0, -7.0, -1.0, 0.0, 3.0])
    torch.testing.assert_close(elu1(x), torch.where(x > 0, x + 1, x.exp()), rtol=1e-6, atol=0)


def test_taylor_features_multiply_to_the_series_of_exp(noise):
    q, k = noise(6, 5, dtype=torch.float64), noise(7, 5, dtype=torch.float64, seed=1)
    s = q @ k.mT / 5**0.5
    torch.testing.assert_close(taylor2(q) @ taylor2(k).mT, 1 + s + s * s / 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
def test_a_layer_is_the_formula(layer, noise, form, pos):
    module = layer(form, pos=pos, dtype=torch.float64)
    x = noise(2, 21, 32, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (4, 8)) for part in module.c_attn(x).split(32, -1))
    phi, norm = FEATURE_MAPS[module.config.feature_map], module.config.linear_norm
    tables = rotary_tables(0, 21, 8, 10_000.0, x.device)
    turn = (lambda y: rotate(y, *tables)) if pos == "rope" else (lambda y: y)
    if module.config.feature_map in ("taylor2", "identity"):
        above = below = [phi(turn(y)).transpose(1, 2) for y in (q, k)]
    else:
        below = [phi(y).transpose(1, 2) for y in (q, k)]
        above = [turn(phi(y)).transpose(1, 2) for y in (q, k)]
    gap = (torch.arange(21)[:, None] - torch.arange(21)).double()
    fall = torch.exp(-alibi_slopes(4).double().view(4, 1, 1) * gap) if pos == "alibi" else torch.ones(4, 21, 21)
    weights = (above[0] @ above[1].mT * fall).tril()
    y = weights @ v.transpose(1, 2)
    if norm == "denom":
        y = y / ((below[0] @ below[1].mT * fall).tril().sum(-1, keepdim=True) + EPS)
    elif norm == "rms":
        y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    else:
        y = y * 8**-0.5
    torch.testing.assert_close(module(x), module.c_proj(y.transpose(1, 2).flatten(-2)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
def test_the_state_continues_any_prefill_and_keeps_its_size(layer, noise, form, pos):
    module = layer(form, pos=pos, out_gate="head")
    x = noise(2, 40, 32)
    cache = module.make_cache(2, 10**9, dtype=torch.bfloat16, device="cpu")
    cost = module.config.cache_cost(module.shape)
    parts = []
    for piece in x.split([17, 1, 1, 1, 20], 1):
        parts.append(module(piece, cache))
        assert cache.nbytes == cache.reserved == 2 * cost.nbytes(cache.length, 2)
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=1e-4, atol=1e-4)


def test_a_state_goes_back_to_nothing_or_not_at_all(layer, noise):
    module = layer("linear")
    cache = module.make_cache(1, 9, dtype=torch.float32, device="cpu")
    first = module(noise(1, 9, 32), cache)
    with pytest.raises(VgptError, match="cannot go back to 4"):
        cache.rewind(4)
    cache.reset()
    torch.testing.assert_close(module(noise(1, 9, 32), cache), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thousands_of_tokens_are_finite_and_accurate_in_low_precision(layer, noise, dtype):
    module, exact = layer("linear"), layer("linear", dtype=torch.float64)
    x = noise(1, 8192, 32)
    with torch.no_grad():
        got, want = module.to(dtype)(x.to(dtype)).double(), exact(x.double())
    assert got.isfinite().all()
    # Later outputs are means over thousands of values and small: the error is held against their size.
    late = slice(4096, None)
    assert (got - want)[:, late].norm() / want[:, late].norm() < 0.02


def test_gradients_to_later_inputs_are_exactly_zero(layer, noise):
    module = layer("linear:chunk_size=4")
    x = noise(2, 17, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 8].sum(), x)
    assert (gradient[:, 9:] == 0).all()
    assert (gradient[:, :9] != 0).any(-1).all()


def test_what_has_no_meaning_here_is_refused():
    shape = Shape(32, 4, 8, sinks=True)
    assert "no softmax" in resolve_attention("linear").check(shape)[0]
    (fault,) = resolve_attention("linear:feature_map=identity").check(Shape(32, 4, 8))
    assert "--feature-map identity" in fault
    assert "--linear-norm" in fault


def test_gpt2_small_costs_what_the_literature_says():
    config = GPT2Config(vocab_size=50_257, n_layer=12, n_head=12, n_embd=768, block_size=1024, attn="linear")
    assert costs.count_parameters(config).total == 124_439_808
    assert config.attn.flops(config.shape, 1024).mixing == 300_300 * 1024
    assert config.attn.dense_flops(config.shape, 1024).mixing == 397_824 * 1024
    assert config.attn.decode_flops(config.shape, 77).mixing == 199_680
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7520
    assert costs.cache_bytes(config, 1024) == costs.cache_bytes(config, 1) == 2_340 * 1024
