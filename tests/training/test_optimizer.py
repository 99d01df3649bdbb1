"""AdamW: every parameter once, and only matrices decay."""

import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialise
from vgpt.training.optimizer import build_optimizer


def tiny() -> GPT2Model:
    net = GPT2Model(GPT2Config(vocab_size=11, n_layer=1, n_head=2, n_embd=8, block_size=6))
    initialise(net, 0)
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
