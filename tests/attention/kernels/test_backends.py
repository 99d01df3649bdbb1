"""Every fast path computes what the loop over queries computes, and hides what it must hide."""

import pytest
import torch

from vgpt.attention.kernels import backends, blockwise
from vgpt.attention.kernels.backends import attend, choose_backend
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes

HEADS = [(4, 4), (4, 2), (4, 1)]


def causal(T: int, S: int) -> torch.Tensor:
    return torch.arange(S)[None] <= torch.arange(S - T, S)[:, None]


def qkv(noise, H: int, G: int, T: int, S: int, dtype: torch.dtype, B: int = 2, D: int = 8):
    q, k, v = (noise(B, n, t, D, dtype=dtype, seed=i) for i, (n, t) in enumerate(((H, T), (G, S), (G, S))))
    return [t.requires_grad_() for t in (q, k, v)]


@pytest.fixture(params=["sdpa", "blockwise", "naive"])
def forced(request, monkeypatch) -> str:
    monkeypatch.setattr(backends, "choose_backend", lambda *_args, **_more: request.param)
    return request.param


@pytest.mark.parametrize(("H", "G"), HEADS)
@pytest.mark.parametrize(("T", "S"), [(1, 1), (2, 2), (13, 13), (1, 9), (5, 12), (150, 150)])
def test_every_backend_equals_the_loop_with_its_gradients(noise, forced, H, G, T, S):
    inputs = qkv(noise, H, G, T, S, torch.float64, B=1 if T > 100 else 2)
    weight = noise(inputs[0].shape[0], H, T, 8, dtype=torch.float64, seed=9)
    got = attend(*inputs, offset=S - T, flash=forced != "naive")
    want = attention_by_loop(*inputs, causal(T, S))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((want * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("H", "G"), HEADS)
def test_any_mask_replaces_the_causal_rule(noise, forced, H, G):
    inputs = qkv(noise, H, G, 9, 9, torch.float64)
    mask = causal(9, 9) & (torch.arange(9)[:, None] - torch.arange(9)[None] < 3)
    got = attend(*inputs, mask=mask, flash=forced != "naive")
    torch.testing.assert_close(got, attention_by_loop(*inputs, mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("H", "G"), HEADS)
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (13, 13), (5, 12), (150, 150)])
@pytest.mark.parametrize("extra", ["sinks", "slopes", "both", "wide values", "narrow values"])
def test_sinks_slopes_and_other_widths_equal_the_loop_with_gradients(noise, forced, H, G, T, S, extra):
    B = 1 if T > 100 else 2
    inputs = qkv(noise, H, G, T, S, torch.float64, B=B)
    width = {"wide values": 13, "narrow values": 5}.get(extra, 8)
    inputs[2] = noise(B, G, S, width, dtype=torch.float64, seed=5).requires_grad_()
    more = {}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(H, dtype=torch.float64, seed=7).requires_grad_()
        inputs.append(more["sinks"])
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(H).double()
    weight = noise(B, H, T, width, dtype=torch.float64, seed=9)
    got = attend(*inputs[:3], offset=S - T, flash=forced != "naive", mods=ScoreMods(0.3, **more))
    want = attention_by_loop(*inputs[:3], causal(T, S), ScoreMods(0.3, **more))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((want * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_the_backends_have_alibis_slopes_of_the_paper():
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([0.5**i for i in range(1, 9)]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", ["sdpa", "blockwise"])
def test_distances_of_thousands_of_tokens_survive_bfloat16(noise, backend, monkeypatch):
    monkeypatch.setattr(backends, "choose_backend", lambda *_args, **_more: backend)
    q, k, v = (noise(1, 2, 2048, 16, dtype=torch.float32, seed=i) for i in range(3))
    mods = ScoreMods(slopes=alibi_slopes(2))
    want = attend(q, k, v, mods=mods, flash=False)
    plain = attend(q, k, v, flash=False) - attend(*(x.bfloat16() for x in (q, k, v))).float()
    got = attend(*(x.bfloat16() for x in (q, k, v)), mods=mods).float()
    # Two keys alone carry nearly all weight here, so nothing averages the rounding of the values out.
    assert (got - want).abs().max() < max(0.03, 3 * plain.abs().max())


def test_gradients_agree_with_finite_differences(noise, forced):
    inputs = qkv(noise, 4, 2, 5, 5, torch.float64, B=1, D=4)
    assert torch.autograd.gradcheck(lambda *x: attend(*x, flash=forced != "naive"), inputs)


@pytest.mark.parametrize("T", [2, 40, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_and_float32_stay_near_the_loop(noise, forced, T, dtype):
    inputs = qkv(noise, 4, 2, T, T, dtype, B=1)
    with torch.no_grad():
        got = attend(*inputs, flash=forced != "naive")
        want = attention_by_loop(*(t.double() for t in inputs), causal(T, T))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0, atol=3e-2 if dtype == torch.bfloat16 else 2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [3, 70])
def test_extreme_scores_give_finite_outputs_and_gradients(noise, forced, dtype, T):
    q, k, v = qkv(noise, 4, 2, T, T, dtype)
    inputs = [(t * 1e4).detach().requires_grad_() for t in (q, k)] + [v]
    y = attend(*inputs, flash=forced != "naive")
    assert y.isfinite().all()
    for gradient in torch.autograd.grad(y.float().square().sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [6, 64, 150])
def test_no_gradient_reaches_the_future_not_even_the_smallest(noise, forced, dtype, T):
    inputs = qkv(noise, 4, 2, T, T, dtype)
    y = attend(*inputs, flash=forced != "naive")
    t = T // 2
    for gradient in torch.autograd.grad(y[:, :, t].float().sum(), inputs):
        assert (gradient[:, :, t + 1 :] == 0).all()
        assert (gradient[:, :, t] != 0).any()


def test_masks_made_while_sampling_serve_training_afterwards(noise):
    blockwise._masks.clear()
    with torch.inference_mode():
        attend(*qkv(noise, 4, 4, 11, 11, torch.float32))
    inputs = qkv(noise, 4, 4, 11, 11, torch.float32)
    attend(*inputs).sum().backward()
    assert inputs[0].grad is not None


@pytest.mark.parametrize("rows", [1, 3, 64, 100])
@pytest.mark.parametrize(("H", "G"), HEADS)
def test_the_size_of_a_block_changes_nothing(noise, H, G, rows):
    inputs = qkv(noise, H, G, 10, 14, torch.float64)
    got = backends.blockwise(*inputs, 4, rows)
    want = attention_by_loop(*inputs, causal(10, 14))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(got.sin().sum(), inputs), torch.autograd.grad(want.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_no_flash_is_the_naive_formula_everywhere():
    for device in ("cpu", "cuda", "mps"):
        assert choose_backend(torch.device(device), torch.float32, 8, flash=False) == "naive"


def test_only_cpus_leave_the_fused_kernel():
    assert choose_backend(torch.device("cuda"), torch.bfloat16, 64) == "sdpa"
    assert choose_backend(torch.device("cpu"), torch.bfloat16, 64) == "blockwise"
    assert choose_backend(torch.device("cpu"), torch.float32, 4096) == "sdpa"
