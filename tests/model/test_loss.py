"""The loss: the textbook value and gradient, whole or in chunks."""

import pytest
import torch
from torch.nn import functional as F

from vgpt.model import loss as losses
from vgpt.model.loss import cross_entropy, linear_cross_entropy, token_losses


def problem(dtype: torch.dtype, N: int = 50, C: int = 8, V: int = 11):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.empty(n, C, dtype=dtype).normal_(generator=generator) for n in (N, V))
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(V, (N,), generator=generator)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("chunk", [1, 11, 100, 549, 10_000])
def test_chunks_of_any_size_give_the_plain_value_and_gradients(chunk, factor):
    hidden, weight, targets = problem(torch.float64)
    want = F.cross_entropy(hidden @ weight.T, targets)
    got = linear_cross_entropy(hidden, weight, targets, large=0, chunk=chunk)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got * factor, [hidden, weight]),
        torch.autograd.grad(want * factor, [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_chunked_gradient_agrees_with_finite_differences():
    hidden, weight, targets = problem(torch.float64, N=7, C=3, V=5)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, large=0, chunk=10), (hidden, weight)
    )


def test_bfloat16_logits_meet_a_float32_softmax():
    hidden, weight, targets = problem(torch.float32, N=64, C=32, V=300)
    want = F.cross_entropy(hidden @ weight.T, targets)
    exact = torch.autograd.grad(want, [hidden, weight])
    for large in (0, 10**9):
        with torch.autocast("cpu", torch.bfloat16):
            got = linear_cross_entropy(hidden, weight, targets, large=large)
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(want.item(), rel=2e-3)
        for a, b in zip(torch.autograd.grad(got, [hidden, weight]), exact, strict=True):
            assert a.dtype == torch.float32
            assert float((a - b).norm() / b.norm()) < 0.02


def test_the_models_loss_is_the_mean_of_its_token_losses(model, ids, monkeypatch):
    net = model(loud=True)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    with torch.no_grad():
        want = F.cross_entropy(net(inputs).flatten(0, 1), targets.flatten(), reduction="none").view(3, 19)
    torch.testing.assert_close(token_losses(net, inputs, targets), want)
    torch.testing.assert_close(cross_entropy(net, inputs, targets), want.mean())
    monkeypatch.setattr(losses, "CHUNK", 61 * 5)
    torch.testing.assert_close(token_losses(net, inputs, targets), want)


def test_a_tied_embedding_collects_both_its_gradients_from_chunks(model, ids):
    grads = []
    for large in (10**9, 0):
        net = model(loud=True)
        linear_cross_entropy(
            net.hidden(ids[:, :-1]).flatten(0, 1), net.head_weight, ids[:, 1:].flatten(), large=large, chunk=61 * 5
        ).backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_certain_and_wrong_model_has_a_finite_loss():
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    for large in (0, 100):
        value = linear_cross_entropy(hidden, weight, torch.tensor([1]), large=large)
        assert value.item() == pytest.approx(200.0)
