"""The loss: the textbook value and gradient, whole or in chunks."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vgpt.model import loss as losses
from vgpt.model import loss_blocks, tied
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


@pytest.mark.parametrize("rows", [1, 7, 50])
@pytest.mark.parametrize("classes", [1, 4, 11, 100])
def test_blocks_of_classes_and_pieces_of_rows_change_nothing(monkeypatch, classes, rows):
    monkeypatch.setattr(loss_blocks, "_CACHED", 40)
    hidden, weight, targets = problem(torch.float64)
    want = F.cross_entropy(hidden @ weight.T, targets)
    got, *gradients = loss_blocks.gradients(hidden.detach(), weight.detach(), targets, rows, classes=classes)
    torch.testing.assert_close(got, want.detach())
    for a, b in zip(gradients, torch.autograd.grad(want, [hidden, weight]), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_given_away_are_the_same_and_are_not_given_twice():
    hidden, weight, targets = problem(torch.float64)
    want = torch.autograd.grad(3 * linear_cross_entropy(hidden, weight, targets, large=0), [hidden, weight])
    loss = 3 * linear_cross_entropy(hidden, weight, targets, large=0, once=True)
    for a, b in zip(torch.autograd.grad(loss, [hidden, weight], retain_graph=True), want, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()


@pytest.mark.parametrize("large", [0, 10**9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_weight_that_is_embedding_and_output_at_once_gets_the_sum_of_both_gradients(
    model, ids, monkeypatch, large, dtype
):
    monkeypatch.setattr(losses, "linear_cross_entropy", partial(linear_cross_entropy, large=large))
    grads = []
    for fewest in (1, 10**9):
        monkeypatch.setattr(tied, "_FEWEST", fewest)
        net = model(loud=True)
        for _ in range(2):  # micro-batches add up
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = cross_entropy(net, ids[:, :-1], ids[:, 1:])
            (loss / 2).backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_a_tied_weight_is_made_in_one_place(model, ids, monkeypatch):
    made = []

    def spy(*arguments: Any) -> Any:
        found = original(*arguments)
        made.append(found[2].data_ptr())
        return found

    original = loss_blocks.gradients
    monkeypatch.setattr(loss_blocks, "gradients", spy)
    monkeypatch.setattr(losses, "linear_cross_entropy", partial(linear_cross_entropy, large=0))
    monkeypatch.setattr(tied, "_FEWEST", 1)
    net = model(loud=True)
    cross_entropy(net, ids[:, :-1], ids[:, 1:]).backward()
    assert net.wte.weight.grad is not None
    assert made == [net.wte.weight.grad.data_ptr()]


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
