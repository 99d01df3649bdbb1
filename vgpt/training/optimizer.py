"""AdamW with decoupled weight decay on what its role lets decay, the matrices of products; and its learning rate."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vgpt.attention.base import roles_of

# Devices on which torch's fused kernel updates all tensors in one call.
_FUSED = ("cpu", "cuda", "mps")


class AdamW(torch.optim.AdamW):
    """Torch's, without its precautions for being compiled itself: they import torch._dynamo, which takes a second.

    The methods are torch's own below its decorators; `step` gets back the one that counts.
    """

    add_param_group: Any = inspect.unwrap(Optimizer.add_param_group)
    zero_grad: Any = inspect.unwrap(Optimizer.zero_grad)
    state_dict: Any = inspect.unwrap(Optimizer.state_dict)
    load_state_dict: Any = inspect.unwrap(Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters once."""
        return _step(self, closure)


_step: Callable[..., Any] = inspect.unwrap(torch.optim.AdamW.step)


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    device: torch.device | str = "cpu",
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) over every trainable parameter of `model`.

    Tensors of two or more dimensions decay; biases, norms and other vectors do not. Where an attention layer declares
    roles, `Role.decays` says it.
    """
    roles = roles_of(model)
    trainable = [(roles[name].decays, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for decays, p in trainable if decays], "weight_decay": weight_decay},
        {"params": [p for decays, p in trainable if not decays], "weight_decay": 0.0},
    ]
    fused = torch.device(device).type in _FUSED
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=fused)


def learning_rate(step: int, *, lr: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """Return the rate of update `step`, counted from 0: linear warm-up, then half a cosine from `lr` to `min_lr`.

    The first update already moves (lr / warmup_steps), and `lr` is reached at step `warmup_steps - 1`. The last step,
    `max_steps - 1`, uses `min_lr`; so does any later one.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))
