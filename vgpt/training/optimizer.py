"""AdamW with decoupled weight decay on matrices only."""

import torch
from torch import nn

# Devices on which torch's fused kernel updates all tensors in one call.
_FUSED = ("cpu", "cuda", "mps")


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    device: torch.device | str = "cpu",
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) over every trainable parameter of `model`.

    Tensors of two or more dimensions decay; biases, norms and other vectors do not.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = torch.device(device).type in _FUSED
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=fused)
