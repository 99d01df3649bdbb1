"""Initial weights, each from its own random stream.

A tensor's values depend on (seed, parameter name, shape) alone: not on the other parameters, the device or any global
random state. Models that differ in their attention therefore start from bit-equal trunks.
"""

import hashlib

import torch
from torch import nn

from vgpt.model.gpt2 import GPT2Model

STD = 0.02


def initialise(model: GPT2Model, seed: int) -> None:
    """Fill all parameters in place as GPT-2 does.

    Matrices N(0, 0.02), projections into the residual stream (`c_proj`) divided by sqrt(2 n_layer), biases 0, norms 1.
    Source: Radford et al. 2019, section 2.3.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, seed, model.config.n_layer)


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream of one parameter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def _fill(name: str, parameter: nn.Parameter, seed: int, n_layer: int) -> None:
    if parameter.ndim < 2:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    std = STD / (2 * n_layer) ** 0.5 if name.endswith("c_proj.weight") else STD
    stream = torch.Generator(device="cpu").manual_seed(stream_seed(seed, name))
    # Drawn on the CPU in float32, so that every device and precision starts from the same numbers.
    parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=stream))
