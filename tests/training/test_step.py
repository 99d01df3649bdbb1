"""One update: accumulation, clipping, precision, determinism."""

import pytest
import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import cross_entropy
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep


def make(dtype: torch.dtype = torch.float32, **options) -> TrainStep:
    net = GPT2Model(GPT2Config(vocab_size=31, n_layer=2, n_head=2, n_embd=16, block_size=12))
    initialize(net, 0)
    return TrainStep(net, build_optimizer(net, lr=0.0), dtype=dtype, **options)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(31, (8, 13), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:]


def weights(step: TrainStep) -> list[torch.Tensor]:
    return [p.detach().clone() for p in step.model.parameters()]


def test_accumulated_micro_batches_update_as_one_batch_does(batch):
    whole, parts = make(), make()
    a = whole([batch], 1e-2)
    b = parts(list(zip(batch[0].split(2), batch[1].split(2), strict=True)), 1e-2)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(a.grad_norm, b.grad_norm)
    # First moments and not weights: AdamW takes a whole step along a gradient that is nothing but rounding.
    left, right = (
        torch.cat([s.optimizer.state[p]["exp_avg"].flatten() for p in s.model.parameters()]) for s in (whole, parts)
    )
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5 * float(left.norm()))


def test_the_reported_norm_is_that_before_clipping_and_the_optimizer_sees_a_gradient_at_the_limit(batch):
    step = make(grad_clip=0.25)
    cross_entropy(step.model, *batch).backward()
    want = torch.cat([p.grad.flatten() for p in step.model.parameters()]).norm()
    step.optimizer.zero_grad()
    result = step([batch], 1e-3)
    torch.testing.assert_close(result.grad_norm, want)
    assert float(want) > 0.25
    # The first moment is 1 - beta1 times the first gradient.
    seen = torch.cat([step.optimizer.state[p]["exp_avg"].flatten() for p in step.model.parameters()]) / (1 - 0.9)
    assert float(seen.norm()) == pytest.approx(0.25, rel=1e-4)
    assert all(p.grad is None for p in step.model.parameters())


def test_a_limit_that_one_update_meets_does_not_reach_into_the_next(batch):
    step, free = make(grad_clip=0.25), make(grad_clip=0.0)
    norm = float(step([batch], 0.0).grad_norm)
    step.grad_clip = 1e6
    step([batch], 0.0)
    free([batch], 0.0)
    for p, q in zip(step.model.parameters(), free.model.parameters(), strict=True):
        gradient = free.optimizer.state[q]["exp_avg"] / 0.1
        want = 0.9 * 0.1 * gradient * 0.25 / norm + 0.1 * gradient
        torch.testing.assert_close(step.optimizer.state[p]["exp_avg"], want, rtol=1e-4, atol=1e-8)


def test_gradients_within_the_limit_and_without_one_stay_as_they_are(batch):
    steps = [make(grad_clip=limit) for limit in (0.0, 1e6)]
    for step in steps:
        step([batch], 1e-2)
    for one, other in zip(*map(weights, steps), strict=True):
        assert torch.equal(one, other)


def test_a_batch_is_learned_by_heart_in_both_precisions(batch):
    for dtype in (torch.float32, torch.bfloat16):
        step = make(dtype)
        first = step([batch], 1e-2).loss
        for _ in range(60):
            last = step([batch], 1e-2).loss
        assert float(last) < 0.5 * float(first)
        assert all(p.dtype == torch.float32 for p in step.model.parameters())


def test_the_same_steps_give_the_same_bits(batch):
    steps = [make(torch.bfloat16) for _ in range(2)]
    for step in steps:
        for _ in range(3):
            step([batch], 1e-2)
    for one, other in zip(*map(weights, steps), strict=True):
        assert torch.equal(one, other)


def test_the_rate_given_is_the_rate_used(batch):
    step = make()
    before = weights(step)
    step([batch], 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(step), strict=True))
    assert {group["lr"] for group in step.optimizer.param_groups} == {0.0}


def test_a_non_finite_gradient_is_reported_not_hidden(batch):
    step = make()
    with torch.no_grad():
        step.model.ln_f.weight[0] = float("inf")
    assert not step([batch], 1e-3).grad_norm.isfinite()
