"""Linear layers on processors where MKL holds back."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vgpt.model import products
from vgpt.model.decoding import Decoder
from vgpt.model.loss import linear_cross_entropy
from vgpt.model.products import Linear, linear, matmul, onednn_is_faster

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch has no oneDNN",
)


@pytest.fixture
def by_onednn(monkeypatch):
    """Multiply by oneDNN whatever the processor and the size; returns how often it did."""
    calls = []
    real = torch.ops.mkldnn._linear_pointwise.default
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_FEWEST", 0)
    monkeypatch.setattr(products, "_multiply", lambda *a: (calls.append(1), real(*a))[1])
    return calls


def strided(*sizes):
    """Return random numbers (..., n) whose last dimension is not the fastest in memory."""
    return torch.randn(*sizes[:-2], sizes[-1], sizes[-2]).mT


@needs_onednn
@pytest.mark.parametrize("make", [torch.randn, strided])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(5, 7), (2, 33, 7), (2, 3, 4, 7)])
def test_product_and_gradients_are_those_of_the_formula(by_onednn, make, bias, sizes):
    x, w, b = make(*sizes), make(11, 7), torch.randn(11) if bias else None
    weights = strided(*sizes[:-1], 11)
    results = []
    for multiply, dtype in ((linear, torch.float32), (F.linear, torch.float64)):
        inputs = [None if t is None else t.detach().to(dtype).requires_grad_() for t in (x, w, b)]
        y = multiply(*inputs)
        y.backward(weights.to(dtype))
        results.append([y.detach(), *(t.grad for t in inputs if t is not None)])
    assert len(by_onednn) == 3
    for got, want in zip(*results, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_frozen_weights_and_inputs_without_gradient_get_none(by_onednn):
    x, w = torch.randn(4, 6), torch.randn(3, 6, requires_grad=True)
    linear(x, w).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(w.grad, x.sum(0).expand(3, 6))
    y = torch.randn(4, 6, requires_grad=True)
    linear(y, w.detach()).sum().backward()
    torch.testing.assert_close(y.grad, w.detach().sum(0).expand(4, 6))


@needs_onednn
def test_a_model_learns_the_same_and_decodes_with_it(by_onednn, model, monkeypatch):
    ids = torch.randint(0, 60, (2, 9))
    gpt = model(tie_weights=False)
    assert [type(m) for m in gpt.modules() if isinstance(m, nn.Linear)] == [Linear] * (4 * len(gpt.blocks) + 1)
    fast = gpt(ids)
    fast.square().mean().backward()
    grads = [p.grad.clone() for p in gpt.parameters()]
    assert by_onednn
    gpt.zero_grad()
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    plain = gpt(ids)
    plain.square().mean().backward()
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    for got, parameter in zip(grads, gpt.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-3, atol=1e-6)
    packed = Decoder(gpt, torch.bfloat16).next_logits(ids)
    torch.testing.assert_close(packed, plain[:, -1].detach(), rtol=0.05, atol=0.05)


@needs_onednn
def test_the_chunked_loss_and_its_gradients_are_those_of_the_plain_one(by_onednn):
    hidden, weight, targets = torch.randn(30, 8), torch.randn(50, 8), torch.randint(0, 50, (30,))
    results = []
    for dtype, options in ((torch.float32, {"large": 0, "chunk": 400}), (torch.float64, {})):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (hidden, weight)]
        loss = linear_cross_entropy(*inputs, targets, **options)
        loss.backward()
        results.append([loss.detach(), *(t.grad for t in inputs)])
    assert by_onednn
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN multiplies bfloat16 by 512-bit instructions"
)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("by_onednn")
def test_training_in_bfloat16_differs_from_autocasts_own_product_by_its_rounding(x_dtype, monkeypatch):
    layer, x = Linear(48, 40), torch.randn(3, 5, 48).to(x_dtype).requires_grad_()
    results = []
    for fewest in (1, 1 << 60):
        monkeypatch.setattr(products, "_FEWEST_IN_HALF", fewest)
        layer.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert ("HalfLinear" in type(y.grad_fn).__name__) == (fewest == 1)
        y.sin().sum().backward()
        assert [y.dtype, x.grad.dtype, layer.weight.grad.dtype] == [torch.bfloat16, x_dtype, torch.float32]
        results.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    exact = F.linear(x.detach().float(), layer.weight.bfloat16().float(), layer.bias.bfloat16().float())
    for got, want in zip(*results, strict=True):
        assert float((got.float() - want.float()).norm() / want.float().norm()) < 0.01
    ours, torchs = (float((result[0].float() - exact.detach()).norm()) for result in results)
    assert ours < 1.5 * torchs


@needs_onednn
def test_bfloat16_autocast_and_float64_stay_with_torch(by_onednn):
    layer, x = Linear(6, 3), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    assert torch.equal(matmul(x.double(), x.double().T), x.double() @ x.double().T)
    assert not by_onednn


def test_only_processors_that_mkl_holds_back_on_multiply_by_onednn(monkeypatch):
    monkeypatch.setattr(products, "vendor", lambda: "GenuineIntel")
    onednn_is_faster.cache_clear()
    assert not onednn_is_faster()
    onednn_is_faster.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the maker is read on Linux alone")
def test_the_maker_of_the_processor_is_what_the_system_says():
    try:
        said = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    except OSError:
        pytest.skip("no lscpu here")
    line = next((line for line in said.splitlines() if line.startswith("Vendor ID:")), "Vendor ID:")
    assert products.vendor() == line.partition(":")[2].strip()
