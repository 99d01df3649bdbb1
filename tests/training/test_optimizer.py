"""AdamW: every parameter once, and only matrices decay."""

import subprocess
import sys

import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.optimizer import build_optimizer


def tiny() -> GPT2Model:
    net = GPT2Model(GPT2Config(vocab_size=11, n_layer=1, n_head=2, n_embd=8, block_size=6))
    initialize(net, 0)
    return net


def test_every_parameter_is_in_exactly_one_group_and_vectors_do_not_decay():
    net = tiny()
    optimizer = build_optimizer(net, lr=1e-3, weight_decay=0.1)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        vector = name.endswith("bias") or "ln_" in name
        assert decays[id(parameter)] == (0.0 if vector else 0.1), name


def test_frozen_parameters_are_left_out():
    net = tiny()
    net.wte.weight.requires_grad_(False)
    optimizer = build_optimizer(net, lr=1e-3)
    assert all(p is not net.wte.weight for group in optimizer.param_groups for p in group["params"])


def test_the_update_is_adamw_of_the_paper():
    net = torch.nn.Linear(3, 2, bias=True).double()
    optimizer = build_optimizer(net, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5)
    w, m, v = net.weight.detach().clone(), 0.0, 0.0
    for t in range(1, 4):
        gradient = torch.full((2, 3), float(t), dtype=torch.float64)
        net.weight.grad, net.bias.grad = gradient.clone(), torch.zeros(2, dtype=torch.float64)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        w = w - 0.1 * 0.5 * w - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
    torch.testing.assert_close(net.weight.detach(), w)


def test_updates_and_states_are_those_of_torchs_own_optimizer_to_the_bit():
    ours, theirs = tiny(), tiny()
    first = build_optimizer(ours, lr=1e-2)
    groups = [{**group, "params": []} for group in first.param_groups]
    names = {id(p): name for name, p in ours.named_parameters()}
    other = dict(theirs.named_parameters())
    for mine, group in zip(first.param_groups, groups, strict=True):
        group["params"] = [other[names[id(p)]] for p in mine["params"]]
    second = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    for step in range(3):
        for optimizer, net in ((first, ours), (second, theirs)):
            for i, parameter in enumerate(net.parameters()):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + i))
            optimizer.step()
            optimizer.zero_grad()
        first.load_state_dict(first.state_dict())
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, its)
        assert mine.grad is None
    for mine, its in zip(first.state_dict()["state"].values(), second.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(mine[key], its[key]) for key in its)


def test_a_step_does_not_import_the_compiler():
    program = """
import sys, torch
from vgpt.training.optimizer import build_optimizer
layer = torch.nn.Linear(2, 2)
optimizer = build_optimizer(layer, lr=1e-3)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
