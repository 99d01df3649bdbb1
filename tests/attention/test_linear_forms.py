"""All forms of linear attention compute what a loop over tokens computes, in whatever chunks, with exact gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear import square
from vgpt.attention.linear.chunked import batched, chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS
from vgpt.attention.linear.naive import quadratic_linear_attention
from vgpt.attention.linear.recurrent import recurrent_step
from vgpt.attention.linear.sweep import sweep

POSITIVE = ["elu1", "relu", "taylor2"]
MAPS = [*POSITIVE, "identity"]
EPS = 1e-6


def textbook_features(name: str, x: torch.Tensor) -> torch.Tensor:
    """The feature maps as their papers write them; for taylor2 with all D^2 products of two features."""
    if name == "elu1":
        return F.elu(x) + 1
    if name == "relu":
        return x.clamp(min=0)
    if name == "identity":
        return x
    x = x / x.shape[-1] ** 0.25
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2)
    return torch.cat((torch.ones_like(x[..., :1]), x, squares), -1)


def token_by_token(name, q, k, v, slopes=None, normalize=True):
    """S_t = gamma S_(t-1) + phi(k_t) v_t, z_t likewise; o_t = phi(q_t) S_t / (phi(q_t) z_t + eps)."""
    gamma = 1.0 if slopes is None else torch.exp(-slopes.to(q.dtype)).view(-1, 1, 1)
    queries, keys = textbook_features(name, q), textbook_features(name, k)
    S, z, outputs = 0.0, 0.0, []
    for t in range(q.shape[2]):
        S = gamma * S + keys[:, :, t, :, None] * v[:, :, t, None, :]
        z = gamma * z + keys[:, :, t, :, None]
        y = (queries[:, :, t, :, None] * S).sum(2)
        outputs.append(y / ((queries[:, :, t, :, None] * z).sum(2) + EPS) if normalize else y)
    return torch.stack(outputs, 2)


def qkv(noise, T, B=2, H=3, D=4, Dv=5, dtype=torch.float64):
    return [noise(B, H, T, d, dtype=dtype, seed=i).requires_grad_() for i, d in enumerate((D, D, Dv))]


def form(name, q, k, v, *, feature_map, slopes=None, state=None, chunk_size=64, normalize=True, keep_state=False):
    if name == "quadratic":
        return quadratic_linear_attention(
            q,
            k,
            v,
            feature_map=feature_map,
            slopes=slopes,
            state=state,
            normalize=normalize,
            keep_state=keep_state,
        )
    run = {"sweep": sweep, "batched": batched}[name]
    return run(q, k, v, state, slopes, feature_map, chunk_size, normalize, keep_state)


def same(got, want, inputs, tolerance=1e-11):
    """Outputs and gradients agree, relative to the largest number."""
    scale = want.detach().abs().max()
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=tolerance)
    one, other = (torch.autograd.grad((y / scale).sin().sum(), inputs, retain_graph=True) for y in (got, want))
    for a, b in zip(one, other, strict=True):
        size = max(1.0, b.abs().max())
        torch.testing.assert_close(a / size, b / size, rtol=0, atol=tolerance)


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 100, 300])
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_every_form_equals_the_loop_over_tokens_at_any_length(noise, T, decay):
    inputs = qkv(noise, T)
    slopes = alibi_slopes(3) if decay else None
    want = token_by_token("elu1", *inputs, slopes)
    for name in ("sweep", "batched", "quadratic"):
        got, state = form(name, *inputs, feature_map=FEATURE_MAPS["elu1"], slopes=slopes)
        assert state is None
        same(got, want, inputs)


@pytest.mark.parametrize(("name", "normalize"), [*((m, False) for m in MAPS), *((m, True) for m in POSITIVE)])
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_every_feature_map_equals_the_loop_over_tokens(noise, name, normalize, decay):
    inputs = qkv(noise, 45)
    slopes = alibi_slopes(3) if decay else None
    want = token_by_token(name, *inputs, slopes, normalize)
    # 45 tokens are few beside chunks of 16 and many beside those of 8.
    for how, chunk_size in (("sweep", 16), ("sweep", 8), ("batched", 16), ("quadratic", 16)):
        options = {"feature_map": FEATURE_MAPS[name], "slopes": slopes, "normalize": normalize}
        got, _ = form(how, *inputs, chunk_size=chunk_size, **options)
        # Where hardly any feature is above zero, a quotient of two small numbers loses digits.
        same(got, want, inputs, 1e-9 if name == "relu" else 1e-11)


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 64, 100, 1000])
@pytest.mark.parametrize("name", ["elu1", "taylor2"])
@pytest.mark.parametrize("how", ["sweep", "batched"])
def test_the_chunk_size_changes_nothing(noise, chunk_size, name, how):
    inputs, slopes = qkv(noise, 100), alibi_slopes(3)
    want, last = form(how, *inputs, feature_map=FEATURE_MAPS[name], slopes=slopes, keep_state=True)
    got, state = form(
        how, *inputs, feature_map=FEATURE_MAPS[name], slopes=slopes, chunk_size=chunk_size, keep_state=True
    )
    torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-11)
    same(got, want, inputs)


@pytest.mark.parametrize("rows", [1, 7, 50, 64])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_the_size_of_a_block_of_queries_changes_nothing(noise, monkeypatch, rows, name, decay):
    monkeypatch.setattr(square, "_ROWS", rows)
    inputs, slopes = qkv(noise, 50), alibi_slopes(3) if decay else None
    normalize = name in POSITIVE
    got = sweep(*inputs, None, slopes, FEATURE_MAPS[name], 64, normalize, False)[0]
    assert "Square" in type(got.grad_fn).__name__
    want = token_by_token(name, *inputs, slopes, normalize)
    same(got, want, inputs, 1e-9 if name == "relu" else 1e-11)


@pytest.mark.parametrize("how", ["sweep", "batched", "quadratic"])
@pytest.mark.parametrize("name", ["elu1", "taylor2"])
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_a_sequence_may_be_cut_anywhere_and_gradients_flow_through_the_state(noise, how, name, decay):
    inputs = qkv(noise, 50)
    slopes = alibi_slopes(3) if decay else None
    settings = {"feature_map": FEATURE_MAPS[name], "slopes": slopes, "chunk_size": 8, "keep_state": True}
    want, last = form(how, *inputs, **settings)
    state, parts, start = None, [], 0
    for length in (19, 1, 8, 22):
        part, state = form(how, *(x[:, :, start : start + length] for x in inputs), state=state, **settings)
        parts.append(part)
        start += length
    same(torch.cat(parts, 2), want, inputs)
    scale = last.detach().abs().max()
    same(state / scale, last / scale, inputs[1:])


@pytest.mark.parametrize("how", ["sweep", "batched", "quadratic"])
@pytest.mark.parametrize("name", ["elu1", "taylor2"])
@pytest.mark.parametrize("normalize", [True, False], ids=["denom", "none"])
def test_gradients_agree_with_finite_differences(noise, how, name, normalize):
    inputs = qkv(noise, 5, B=1, H=2, D=2, Dv=3)
    m = 2 if name == "elu1" else 6
    inputs.append(noise(1, 2, m, 3 + normalize, dtype=torch.float64, seed=9).abs().requires_grad_())
    settings = {"feature_map": FEATURE_MAPS[name], "slopes": alibi_slopes(2), "chunk_size": 2, "keep_state": True}

    def run(q, k, v, state):
        return form(how, q, k, v, state=state, normalize=normalize, **settings)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_steps_of_the_recurrence_give_what_chunks_give(noise, name, decay):
    q, k, v = (x.detach() for x in qkv(noise, 20))
    normalize, slopes = name != "identity", alibi_slopes(3) if decay else None
    want, last = chunked_linear_attention(
        q, k, v, feature_map=FEATURE_MAPS[name], slopes=slopes, chunk_size=6, normalize=normalize, keep_state=True
    )
    state = torch.zeros_like(last)
    parts = [
        recurrent_step(*now, state, feature_map=FEATURE_MAPS[name], slopes=slopes, normalize=normalize)
        for now in zip(*(x.split(1, 2) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 2), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_a_feature_maps_own_gradients_are_those_of_autograd(noise, name):
    feature_map = FEATURE_MAPS[name]
    x = noise(2, 3, 5, dtype=torch.float64)
    x[0, 0, 0] = 0.0
    x.requires_grad_()
    f = feature_map.base(x)
    grad = noise(*f.shape, dtype=torch.float64, seed=1)
    torch.testing.assert_close(feature_map.base_grad(f, grad), torch.autograd.grad(f, x, grad)[0])
    f = f.detach().requires_grad_()
    wide = feature_map.expand(f)
    grad = noise(*wide.shape, dtype=torch.float64, seed=2)
    torch.testing.assert_close(feature_map.expand_grad(f, grad), torch.autograd.grad(wide, f, grad)[0])
    products = noise(4, 4, dtype=torch.float64, seed=3).requires_grad_()
    grad = noise(4, 4, dtype=torch.float64, seed=4)
    want = torch.autograd.grad(feature_map.kernel(products), products, grad)[0]
    torch.testing.assert_close(feature_map.kernel_grad(products, grad), want)


@pytest.mark.parametrize("name", MAPS)
def test_the_kernel_is_the_product_of_expanded_features(noise, name):
    feature_map = FEATURE_MAPS[name]
    q, k = (feature_map.base(noise(7, 6, dtype=torch.float64, seed=i)) for i in range(2))
    torch.testing.assert_close(feature_map.kernel(q @ k.mT), feature_map.expand(q) @ feature_map.expand(k).mT)
    assert feature_map.expands == (feature_map.expand(q).shape[-1] > 6)


def test_taylor_features_follow_the_exponential_to_second_order(noise):
    feature_map = FEATURE_MAPS["taylor2"]
    q, k = (0.1 * noise(50, 8, dtype=torch.float64, seed=i) for i in range(2))
    got = (feature_map.expand(feature_map.base(q)) * feature_map.expand(feature_map.base(k))).sum(-1)
    s = (q * k).sum(-1) / 8**0.5
    assert ((got - s.exp()).abs() <= s.abs() ** 3 / 5).all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("how", ["sweep", "batched"])
def test_eight_thousand_tokens_in_half_precision_stay_accurate(noise, dtype, limit, how):
    # The denominator passes 65,504, float16's largest number, after some 600 tokens; a state in bfloat16 would be off
    # by more than a third after 1,024. What remains is the rounding of the outputs.
    inputs = [x.detach().requires_grad_() for x in qkv(noise, 8192, B=1, H=2, D=64, Dv=64, dtype=dtype)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    got, state = form(how, *inputs, feature_map=FEATURE_MAPS["elu1"], keep_state=True)
    want, last = form("sweep", *exact, feature_map=FEATURE_MAPS["elu1"], keep_state=True)
    assert got.dtype == dtype
    assert state.dtype == torch.float32
    assert last[..., -1].sum(-1).max() > 65_504
    by_token = (got.double() - want).norm(dim=-1) / want.norm(dim=-1)
    assert by_token.max() < 2 * limit
    torch.testing.assert_close(state.double(), last, rtol=1e-5, atol=1e-2)
    weight = noise(1, 2, 8192, 64, seed=5)
    one = torch.autograd.grad((got.float() * weight).sum(), inputs)
    other = torch.autograd.grad((want * weight).sum(), exact)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() / b.norm() < 4 * limit


def test_features_of_very_negative_numbers_survive_bfloat16():
    x = torch.tensor([-30.0, -10.0, -7.0, -6.0, -0.001], dtype=torch.bfloat16)
    assert F.elu(x[2]) + 1 == 0  # the trap
    got = FEATURE_MAPS["elu1"].base(x.float())
    torch.testing.assert_close(got, x.float().exp())


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("how", ["sweep", "batched"])
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e4])
def test_extreme_inputs_give_finite_outputs_and_gradients(noise, name, how, size):
    q, k, v = qkv(noise, 70, dtype=torch.float32)
    q, k = ((size * x).detach().requires_grad_() for x in (q, k))
    y, _ = form(how, q, k, v, feature_map=FEATURE_MAPS[name], chunk_size=16)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), (q, k, v)))


@pytest.mark.parametrize("how", ["sweep", "batched", "quadratic"])
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_not_even_an_overflow_reaches_the_past(noise, how, decay):
    q, k, v = (x.detach() for x in qkv(noise, 40, dtype=torch.float32))
    slopes = alibi_slopes(3) if decay else None
    want, _ = form(how, q, k, v, feature_map=FEATURE_MAPS["elu1"], slopes=slopes, chunk_size=16)
    k[:, :, 21:] = 3e38
    got, _ = form(how, q, k, v, feature_map=FEATURE_MAPS["elu1"], slopes=slopes, chunk_size=16)
    assert torch.equal(got[:, :, :21], want[:, :, :21])


@pytest.mark.parametrize("how", ["sweep", "batched", "quadratic"])
def test_no_gradient_reaches_the_future_not_even_the_smallest(noise, how):
    inputs = qkv(noise, 50, dtype=torch.float32)
    y, _ = form(how, *inputs, feature_map=FEATURE_MAPS["elu1"], slopes=alibi_slopes(3), chunk_size=16)
    for gradient in torch.autograd.grad(y[:, :, 25].sum(), inputs):
        assert (gradient[:, :, 26:] == 0).all()
        assert (gradient[:, :, 25] != 0).any()


def test_autocast_reaches_neither_pass(noise):
    inputs = qkv(noise, 70, dtype=torch.float32)
    want, _ = chunked_linear_attention(*inputs, chunk_size=16)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = chunked_linear_attention(*inputs, chunk_size=16)
        one = torch.autograd.grad(got.sum(), inputs)
    assert torch.equal(got, want)
    for a, b in zip(one, torch.autograd.grad(want.sum(), inputs), strict=True):
        assert torch.equal(a, b)


def test_only_what_is_asked_for_is_differentiated(noise):
    q, k, v = qkv(noise, 20)
    state = noise(2, 3, 4, 6, dtype=torch.float64).abs()
    y, _ = chunked_linear_attention(q, k.detach(), v.detach(), state=state, chunk_size=8)
    (alone,) = torch.autograd.grad(y.sum(), q)
    y, _ = chunked_linear_attention(q, k, v, state=state, chunk_size=8)
    assert torch.equal(alone, torch.autograd.grad(y.sum(), (q, k, v))[0])
    y, last = chunked_linear_attention(q, k, v, chunk_size=8, keep_state=True)
    (alone,) = torch.autograd.grad(last.sum(), v)
    assert alone.isfinite().all()
    assert (alone != 0).all()
