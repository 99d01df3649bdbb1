"""The modes in which a layer runs: training or not, in full precision or under bfloat16 autocast."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache

ULP = 2.0**-8
"""One unit in the last place of bfloat16, for numbers of size one."""


@dataclass(frozen=True)
class Mode:
    """One way to run a layer.

    Attributes:
        name: for messages.
        training: `train()` or `eval()`.
        autocast: under bfloat16 autocast, the mode that trains.
    """

    name: str
    training: bool
    autocast: bool = False

    def of(self, module: CausalSelfAttention) -> CausalSelfAttention:
        """Put a module into this mode and return it."""
        return module.train(self.training)

    def context(self, device: str) -> AbstractContextManager[object]:
        """Return the block in which a module of this mode is to run."""
        return torch.autocast(torch.device(device).type, torch.bfloat16) if self.autocast else nullcontext()

    def run(self, module: CausalSelfAttention, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Compute outputs without gradients."""
        with torch.no_grad(), self.context(x.device.type):
            return self.of(module)(x, cache)


TRAINING = Mode("train()", True)
MODES = (
    TRAINING,
    Mode("eval()", False),
    Mode("train() under bfloat16 autocast", True, True),
    Mode("eval() under bfloat16 autocast", False, True),
)
