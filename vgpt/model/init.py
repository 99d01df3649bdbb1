"""Initial weights, each from its own random stream.

A tensor's values depend on (seed, parameter name, shape) alone: not on the other parameters, the device or any global
random state. Models that differ in their attention therefore start from bit-equal backbones.
"""

import hashlib
from copy import deepcopy

import torch
from torch import nn

from vgpt.attention.base import CausalSelfAttention, layers_of, roles_of
from vgpt.attention.roles import Role
from vgpt.model.gpt2 import GPT2Model

STD = 0.02


def initialize(model: GPT2Model, seed: int) -> None:
    """Fill all parameters in place as GPT-2 does, and those of role `OWN` as their layer does.

    Matrices N(0, 0.02), projections into the residual stream (`c_proj`) divided by sqrt(2 n_layer), biases 0, norms 1.
    Source: Radford et al. 2019, section 2.3.

    Raises:
        VgptError: a layer speaks of a parameter that it does not have.
    """
    roles = roles_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, roles[name], seed, model.config.n_layer)
        for name, layer in layers_of(model):
            if own := [key for key in roles if key.startswith(f"{name}.") and roles[key] is Role.OWN]:
                fill_own(layer, [key.removeprefix(f"{name}.") for key in own], stream(seed, name))


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream of one parameter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def stream(seed: int, name: str) -> torch.Generator:
    """Return the random stream of a parameter, or of a layer that fills some itself; it draws on the CPU."""
    return torch.Generator(device="cpu").manual_seed(stream_seed(seed, name))


def _fill(name: str, parameter: nn.Parameter, role: Role, seed: int, n_layer: int) -> None:
    if role is Role.BIAS or role is Role.GAIN:
        parameter.fill_(0.0 if role is Role.BIAS else 1.0)
    elif role is not Role.OWN:
        std = STD / (2 * n_layer) ** 0.5 if role is Role.OUTPUT else STD
        # Drawn on the CPU in float32, so that every device and precision starts from the same numbers.
        numbers = torch.empty(parameter.shape, dtype=torch.float32)
        parameter.copy_(numbers.normal_(0.0, std, generator=stream(seed, name)))


def fill_own(layer: CausalSelfAttention, names: list[str], generator: torch.Generator) -> None:
    """Let a layer fill its own parameters: a copy of it, in float32 on the CPU, wherever and whatever it is itself."""
    copy = deepcopy(layer).to("cpu", torch.float32)
    copy.init_parameters(generator)
    filled = dict(copy.named_parameters())
    for name, parameter in layer.named_parameters():
        if name in names:
            parameter.copy_(filled[name])
