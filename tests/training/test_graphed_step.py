"""Updates replayed as a CUDA graph do what single updates do."""

import pytest
import torch

from vgpt.errors import VgptError
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.graphed_step import LARGEST, GraphedStep, build_step
from vgpt.training.optimizer import build_optimizer
from vgpt.training.parallel.replica import Replica
from vgpt.training.step import TrainStep


def model(device="cpu", **options) -> GPT2Model:
    net = GPT2Model(GPT2Config(vocab_size=97, n_layer=2, n_head=2, n_embd=32, block_size=16, **options))
    initialize(net, 0)
    return net.to(device)


def step_of(net, *, flops=1.0, dtype=torch.float32, alone=True) -> TrainStep:
    return build_step(
        net,
        build_optimizer(net, lr=0.0, device=next(net.parameters()).device),
        Replica(net),
        dtype=dtype,
        grad_clip=1.0,
        flops=flops,
        alone=alone,
        notify=pytest.fail,
    )


def test_a_cpu_takes_single_updates():
    assert type(step_of(model())) is TrainStep


@pytest.mark.gpu
def test_only_small_steps_of_one_process_without_dropout_are_replayed():
    assert type(step_of(model("cuda"))) is GraphedStep
    assert type(step_of(model("cuda"), flops=2 * LARGEST)) is TrainStep
    assert type(step_of(model("cuda"), alone=False)) is TrainStep
    assert type(step_of(model("cuda"), dtype=torch.float16)) is TrainStep
    assert type(step_of(model("cuda", dropout=0.1))) is TrainStep


@pytest.mark.gpu
@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_updates_are_those_of_single_ones(micro, dtype):
    nets = model("cuda"), model("cuda")
    graphed = step_of(nets[0], dtype=dtype)
    plain = TrainStep(nets[1], build_optimizer(nets[1], lr=0.0, device="cuda"), dtype=dtype, grad_clip=1.0)
    generator = torch.Generator().manual_seed(0)
    for number in range(10):
        rows = torch.randint(97, (micro, 4, 17), generator=generator).cuda()
        batches = [(part[:, :-1], part[:, 1:]) for part in rows]
        results = [step(batches, 1e-2 / (1 + number)) for step in (graphed, plain)]
        torch.testing.assert_close(results[0].loss, results[1].loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[0].grad_norm, results[1].grad_norm, rtol=1e-3, atol=1e-5)
    assert graphed._graph is not None
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(graphed.optimizer.state.values(), plain.optimizer.state.values(), strict=True):
        assert float(a["step"]) == float(b["step"]) == 10


@pytest.mark.gpu
def test_a_replayed_update_whose_gradient_is_not_finite_is_left_out():
    net = model("cuda")
    step = step_of(net)
    ids = torch.randint(97, (4, 17), device="cuda")
    for _ in range(8):
        step([(ids[:, :-1], ids[:, 1:])], 1e-3)
    with torch.no_grad():
        net.ln_f.weight[0] = torch.inf
    before = [p.clone() for p in net.parameters()]
    result = step([(ids[:, :-1], ids[:, 1:])], 1e-3)
    assert result.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with torch.no_grad():
        net.ln_f.weight[0] = 1.0
    assert not step([(ids[:, :-1], ids[:, 1:])], 1e-3).skipped
    assert float(next(iter(step.optimizer.state.values()))["step"]) == 9


@pytest.mark.gpu
def test_a_step_that_cannot_be_recorded_goes_on_and_says_so():
    net = model("cuda")
    said = []
    step = GraphedStep(net, build_optimizer(net, lr=0.0, device="cuda"), notify=said.append)
    real = step.replica.loss

    def waits(ids, targets):
        loss = real(ids, targets)
        if not float(loss.detach()) > 0:
            raise VgptError("no loss")
        return loss

    step.replica.loss = waits
    ids = torch.randint(97, (4, 17), device="cuda")
    losses = [float(step([(ids[:, :-1], ids[:, 1:])], 1e-2).loss) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert len(said) == 1
    assert "not replayed as a CUDA graph" in said[0]
    assert torch.randn(3, device="cuda").isfinite().all()  # random numbers go on too
