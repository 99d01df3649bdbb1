"""The kernels of linear attention on a GPU: outputs and gradients of the formula in float64, at any size and layout."""

import pytest
import torch

from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear import fused
from vgpt.attention.linear.chunked import batched, chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS
from vgpt.attention.linear.naive import quadratic_linear_attention

pytestmark = pytest.mark.gpu
LIMITS = {torch.bfloat16: 0.012, torch.float16: 3e-3}
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def kernels_are_here():
    pytest.importorskip("triton")


def heads(dtype, B, H, T, D, DV, size=1.0):
    """Views (B, H, T, width) of one projection, on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.empty(B, T, H, 2 * D + DV, device="cuda").normal_(generator=generator)
    x[..., : 2 * D] *= size
    return [part.transpose(1, 2).requires_grad_() for part in x.to(dtype).split([D, D, DV], -1)]


def exact(inputs):
    return [x.detach().double().requires_grad_() for x in inputs]


def check(inputs, name="elu1", normalize=True, decay=False, formula=quadratic_linear_attention):
    """Compare outputs and gradients with the formula's, for gradients in a layout of their own."""
    slopes = alibi_slopes(inputs[0].shape[1]).cuda() if decay else None
    settings = {"feature_map": FEATURE_MAPS[name], "slopes": slopes, "normalize": normalize}
    assert fused.fits(*inputs, FEATURE_MAPS[name])
    y, _ = chunked_linear_attention(*inputs, **settings)
    doubles = exact(inputs)
    want, _ = formula(*doubles, **settings)
    grad = torch.randn(want.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).to(y.dtype)
    pairs = [(y, want)]
    pairs += zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(want, doubles, grad.double()), strict=True)
    least = float(grad.double().norm()) / 100
    for name, (got, other) in zip(("y", "q", "k", "v"), pairs, strict=True):
        assert got.dtype == y.dtype
        assert got.transpose(1, 2).is_contiguous()
        error = float((got.double() - other).norm() / other.norm().clamp(min=least))
        assert error < LIMITS[y.dtype], f"{name} is off by {error:.2g}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("name", "normalize"), [("elu1", True), ("elu1", False), ("relu", True), ("relu", False), ("identity", False)]
)
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_a_gpu_gives_the_outputs_and_gradients_of_the_formula(dtype, name, normalize, decay):
    check(heads(dtype, 2, 3, 300, 64, 64), name, normalize, decay)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("D", [8, 16, 24, 80, 128])
def test_a_gpu_gives_them_for_every_width(dtype, D):
    check(heads(dtype, 2, 2, 200, D, D), decay=True)
    check(heads(dtype, 1, 2, 100, D, 1), normalize=False)
    check(heads(dtype, 1, 2, 100, 16, D))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("T", [1, 2, 31, 64, 65, 128, 1000])
@pytest.mark.parametrize("chunks", [1, 3, 32])
def test_a_gpu_gives_them_at_every_length_in_segments_of_any_length(monkeypatch, dtype, T, chunks):
    for chunk in (32, 64):
        monkeypatch.setattr(fused, "planned", lambda q, v, chunk=chunk: fused.Plan(chunk, 4, 2, chunks))
        check(heads(dtype, 1, 3, T, 32, 32), decay=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_gpu_gives_them_for_any_strides(dtype):
    q, k, v = (x.detach() for x in heads(dtype, 2, 4, 150, 32, 32))
    check([q.mT.contiguous().mT.requires_grad_(), k[:, :1].expand_as(k).requires_grad_(), v.requires_grad_()])
    check([x[..., ::2].requires_grad_() for x in (q, k, v)])
    y, _ = chunked_linear_attention(q.requires_grad_(), k, v)
    (spread,) = torch.autograd.grad(y.sum(), q, retain_graph=True)  # a gradient of one number, expanded
    (dense,) = torch.autograd.grad(y, q, torch.ones_like(y))
    assert torch.equal(spread, dense)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_long_sequence_stays_as_accurate_as_float32(dtype):
    def float32(q, k, v, **settings):
        q, k, v = (x.float() for x in (q, k, v))
        return batched(q, k, v, None, settings["slopes"], settings["feature_map"], 64, settings["normalize"], False)

    check(heads(dtype, 1, 2, 16_384, 64, 64), formula=float32)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e4])
@pytest.mark.parametrize("name", ["elu1", "relu"])
def test_extreme_inputs_give_finite_numbers_on_a_gpu(dtype, size, name):
    inputs = heads(dtype, 1, 2, 1000, 64, 64, size)
    y, _ = chunked_linear_attention(*inputs, feature_map=FEATURE_MAPS[name])
    for x in (y, *torch.autograd.grad(y.float().sum(), inputs)):
        assert x.isfinite().all()


def test_neither_an_overflow_nor_a_gradient_goes_where_it_must_not_on_a_gpu():
    inputs = heads(torch.bfloat16, 1, 2, 300, 64, 64)
    y, _ = chunked_linear_attention(*inputs)
    for gradient in torch.autograd.grad(y[:, :, 150].sum(), inputs):
        assert (gradient[:, :, 151:] == 0).all()
        assert (gradient[:, :, 150] != 0).any()
    q, k, v = (x.detach().clone() for x in inputs)
    k[:, :, 171:] = 3e38
    assert torch.equal(chunked_linear_attention(q, k, v)[0][:, :, :171], y[:, :, :171])


def test_results_are_the_same_in_every_run_and_mode():
    inputs = heads(torch.bfloat16, 2, 8, 2000, 64, 64)
    runs = []
    for _ in range(2):
        y, _ = chunked_linear_attention(*inputs)
        runs.append((y, *torch.autograd.grad(y.float().square().sum(), inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(chunked_linear_attention(*inputs)[0], y)


def test_tensors_of_more_than_two_billion_numbers_are_addressed_rightly(monkeypatch):
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("takes 30 GB")
    monkeypatch.setattr(fused, "planned", lambda q, v: fused.Plan(64, 4, 2, 16))
    B, H, T, D = 33, 16, 65_536, 64
    x = torch.randn(B, T, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
    k = x.detach().requires_grad_()
    y, _ = chunked_linear_attention(x, k, x.detach())
    found = y, *torch.autograd.grad(y, (x, k), x.detach())
    last = x.detach()[-1:].clone(memory_format=torch.preserve_format)
    q, k = last.clone().requires_grad_(), last.clone().requires_grad_()
    y, _ = chunked_linear_attention(q, k, last)
    for whole, alone in zip(found, (y, *torch.autograd.grad(y, (q, k), last)), strict=True):
        assert torch.equal(whole[-1:], alone)
