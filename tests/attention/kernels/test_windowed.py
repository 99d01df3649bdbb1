"""Every form of attention over a window computes what the loop over queries computes, and hides what it must hide."""

import pytest
import torch

from vgpt.attention.kernels import backends
from vgpt.attention.kernels.backends import naive
from vgpt.attention.kernels.blockwise import blockwise
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.kernels.windowed import folded, windowed

LENGTHS = [1, 2, 63, 64, 100, 300]
WINDOWS = [1, 2, 5, 64, 1000]


def in_window(T: int, W: int, S: int | None = None) -> torch.Tensor:
    """(T, S) booleans by two plain loops; the last query stands at the last key."""
    S = S or T
    return torch.tensor([[0 <= S - T + t - j < W for j in range(S)] for t in range(T)])


def by_blocks(q, k, v, window, **more):
    return blockwise(q, k, v, k.shape[2] - q.shape[2], window=window, keep=True, **more)


def by_frugal_blocks(q, k, v, window, **more):
    return blockwise(q, k, v, k.shape[2] - q.shape[2], window=window, keep=False, **more)


def by_formula(q, k, v, window, **more):
    return naive(q, k, v, in_window(q.shape[2], window, k.shape[2]), k.shape[2] - q.shape[2], **more)


FORMS = {
    "blocks": by_blocks,
    "blocks computed again": by_frugal_blocks,
    "folded": folded,
    "as chosen": windowed,
    "formula": by_formula,
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def form(request):
    return request.param


def qkv(noise, T: int, S: int | None = None, H: int = 2, G: int = 2, D: int = 4, dtype=torch.float64):
    sizes = ((H, T), (G, S or T), (G, S or T))
    return [noise(1, heads, t, D, dtype=dtype, seed=i).requires_grad_() for i, (heads, t) in enumerate(sizes)]


def assert_equal_with_gradients(every, want, inputs, weight) -> None:
    theirs = torch.autograd.grad((want * weight).sum(), inputs)
    for got in every:
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        ours = torch.autograd.grad((got * weight).sum(), inputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("W", WINDOWS)
@pytest.mark.parametrize("T", LENGTHS)
def test_every_form_equals_the_loop_with_its_gradients(noise, T, W):
    inputs = qkv(noise, T)
    weight = noise(1, 2, T, 4, dtype=torch.float64, seed=9)
    want = attention_by_loop(*inputs, in_window(T, W))
    assert_equal_with_gradients((form(*inputs, W) for form in FORMS.values()), want, inputs, weight)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 70), (9, 12), (70, 150), (150, 150)])
@pytest.mark.parametrize("W", [1, 7, 64, 200])
@pytest.mark.parametrize("extra", ["scale", "sinks", "slopes", "both", "groups", "narrow values"])
def test_additions_and_earlier_keys_equal_the_loop_with_gradients(noise, T, S, W, extra):
    inputs = qkv(noise, T, S, H=4, G=2 if extra == "groups" else 4)
    if extra == "narrow values":
        inputs[2] = noise(1, 4, S, 3, dtype=torch.float64, seed=4).requires_grad_()
    more = {"scale": 0.3}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(4, dtype=torch.float64, seed=7).requires_grad_()
        inputs.append(more["sinks"])
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(4).double()
    weight = noise(1, 4, T, inputs[2].shape[-1], dtype=torch.float64, seed=9)
    want = attention_by_loop(*inputs[:3], in_window(T, W, S), ScoreMods(**more))
    every = (form(*inputs[:3], W, mods=ScoreMods(**more)) for form in FORMS.values())
    assert_equal_with_gradients(every, want, inputs, weight)


@pytest.mark.parametrize("rows", [1, 3, 16, 64, 100])
@pytest.mark.parametrize("shape", [blockwise, folded])
def test_the_size_of_a_block_changes_nothing(noise, shape, rows):
    inputs = qkv(noise, 50, 61, H=4, G=2)
    got = blockwise(*inputs, 11, rows, window=9) if shape is blockwise else folded(*inputs, 9, rows)
    weight = noise(1, 4, 50, 4, dtype=torch.float64, seed=9)
    assert_equal_with_gradients([got], attention_by_loop(*inputs, in_window(50, 9, 61)), inputs, weight)


def test_a_window_of_everything_is_causal_attention(noise, form):
    inputs = qkv(noise, 70)
    want = naive(*inputs, torch.ones(70, 70, dtype=torch.bool).tril())
    torch.testing.assert_close(form(*inputs, 70), want, rtol=0, atol=1e-12)
    torch.testing.assert_close(form(*inputs, 10_000), want, rtol=0, atol=1e-12)


def test_gradients_agree_with_finite_differences(noise, form):
    inputs = qkv(noise, 7, D=2)
    assert torch.autograd.gradcheck(lambda *x: form(*x, 3), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("T", "W"), [(6, 2), (150, 5), (150, 64), (300, 100)])
def test_no_gradient_reaches_the_future_or_beyond_the_window(noise, form, dtype, T, W):
    inputs = qkv(noise, T, dtype=dtype)
    t = T - 2
    for gradient in torch.autograd.grad(form(*inputs, W)[:, :, t].float().sum(), inputs)[1:]:
        assert (gradient[:, :, t + 1 :] == 0).all()
        assert (gradient[:, :, : t - W + 1] == 0).all()
        assert (gradient[:, :, t - W + 1 : t + 1] != 0).any(-1).all()


@pytest.mark.parametrize(("T", "W"), [(40, 7), (200, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precisions_stay_near_the_loop(noise, form, T, W, dtype):
    inputs = qkv(noise, T, dtype=dtype)
    with torch.no_grad():
        got = form(*inputs, W)
        want = attention_by_loop(*(x.double() for x in inputs), in_window(T, W))
    assert got.dtype == dtype
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 2e-6}[dtype]
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_scores_give_finite_outputs_and_gradients(noise, dtype):
    inputs = qkv(noise, 150, dtype=dtype)
    inputs = [(x * (1e4 if i < 2 else 1)).detach().requires_grad_() for i, x in enumerate(inputs)]
    y = windowed(*inputs, 20)
    assert y.isfinite().all()
    for gradient in torch.autograd.grad(y.float().square().sum(), inputs):
        assert not gradient.isnan().any()


def test_wide_windows_do_not_keep_their_weights(noise):
    kept = []
    for window in (512, 513):
        inputs = qkv(noise, 600, dtype=torch.float32)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            blockwise(*inputs, window=window)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_short_sequences_take_the_causal_path(noise, monkeypatch):
    taken = []
    monkeypatch.setattr(backends, "_sdpa", lambda q, k, v, *_rest: taken.append(q.shape[2]) or v)
    inputs = qkv(noise, 100, dtype=torch.float32)
    windowed(*inputs, 100)
    assert taken == [100]
