"""The GPU's kernel of the loss: by Triton's interpreter where there is no GPU."""

import pytest
import torch
from torch.nn import functional as F

from vgpt.model import loss as losses
from vgpt.model.loss import linear_cross_entropy, token_losses

pytest.importorskip("triton")
from vgpt.model.loss_kernel import softmax_gradient_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def logits_and_targets(N, V, dtype=torch.float32, spread=3.0):
    generator = torch.Generator().manual_seed(N * V)
    logits = (torch.empty(N, V).normal_(generator=generator) * spread).to(DEVICE, dtype)
    return logits, torch.randint(V, (N,), generator=generator).to(DEVICE)


def exact(logits, targets, scale):
    wide = logits.double().requires_grad_()
    loss = F.cross_entropy(wide, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss * scale, wide)
    return loss, gradient


@pytest.mark.parametrize(("N", "V", "padding"), [(1, 2, 0), (3, 300, 20), (5, 4096, 0), (2, 4097, 63), (4, 9000, 24)])
def test_a_row_of_any_length_gives_the_textbook_loss_and_gradient(N, V, padding):
    logits, targets = logits_and_targets(N, V)
    targets[0] = V - 1
    want, gradient = exact(logits, targets, 0.5)
    padded = F.pad(logits, (0, padding), value=7.0)
    loss = softmax_gradient_(padded, targets, 0.5, V)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    torch.testing.assert_close(padded[:, :V].double(), gradient, rtol=1e-4, atol=1e-7)
    assert not padded[:, V:].any()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0, 3e38], [-3e38, -3e38, -3e38, -3e38]], device=DEVICE)
    targets = torch.tensor([3, 0], device=DEVICE)
    want, gradient = exact(logits, targets, 1.0)
    loss = softmax_gradient_(logits, targets, 1.0, 4)
    assert loss.item() == pytest.approx(want.item())
    torch.testing.assert_close(logits.double(), gradient, rtol=1e-5, atol=1e-7)


def test_a_logit_that_is_not_a_number_is_not_hidden():
    logits, targets = logits_and_targets(2, 50)
    logits[0, 7] = torch.nan
    assert softmax_gradient_(logits, targets, 1.0, 50).isnan()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [None, 1 << 20])
@pytest.mark.parametrize("fused", [True, False])
def test_a_gpu_gives_the_loss_and_gradients_of_float64(dtype, chunk, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(losses, "_gpu_gradient", lambda dtype: losses._softmax_gradient_)
    generator = torch.Generator().manual_seed(0)
    N, C, V = 300, 64, 5003
    hidden, weight = (torch.empty(n, C).normal_(generator=generator).to("cuda") for n in (N, V))
    targets = torch.randint(V, (N,), generator=generator).to("cuda")
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    want = F.cross_entropy(hidden.double() @ weight.double().T, targets)
    exact_gradients = torch.autograd.grad(want * 3, leaves)
    with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
        got = linear_cross_entropy(hidden, weight, targets, large=0, chunk=chunk)
    assert got.item() == pytest.approx(want.item(), rel=1e-2 if dtype is torch.bfloat16 else 1e-5)
    for a, b in zip(torch.autograd.grad(got * 3, leaves), exact_gradients, strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < (0.02 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.gpu
def test_on_a_gpu_the_losses_of_tokens_are_those_of_the_cpu(model, ids):
    net = model(loud=True)
    want = token_losses(net, ids[:, :-1], ids[:, 1:])
    net.to("cuda")
    torch.testing.assert_close(
        token_losses(net, ids[:, :-1].cuda(), ids[:, 1:].cuda()).cpu(), want, rtol=1e-4, atol=1e-5
    )
