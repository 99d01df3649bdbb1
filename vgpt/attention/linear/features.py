"""Feature maps phi, whose products phi(q) phi(k) stand where the softmax has exp(q k)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def elu1(x: Tensor) -> Tensor:
    """elu(x) + 1: Katharopoulos et al. 2020 (arXiv 2006.16236), equation 7.

    Not computed as that sum, which cancels: in bfloat16 it is exactly zero from x = -7 down.
    """
    return x.relu() + x.clamp(max=0).exp() if torch.compiler.is_compiling() else _Elu1.apply(x)


class _Elu1(torch.autograd.Function):
    """The map and its gradient in as few passes over memory as there can be: on CPUs they are all that it costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return x + 1 above zero and exp(x) below."""
        y = x.clamp(max=0).exp_().add_(x.relu())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        """The slope is exp(x) = y up to zero and 1 from there on; written so that it can be differentiated again."""
        (y,) = ctx.saved_tensors
        return grad_outputs[0] * y.clamp(max=1)


def taylor2(x: Tensor) -> Tensor:
    """Map to products 1 + s + s^2 / 2 with s = q k / sqrt(D): Arora et al. 2024 (arXiv 2402.18668), section 4.

    (..., D) becomes (..., 1 + D + D (D + 1) / 2): 1, the numbers x / D^(1/4), and the different products of two of
    them. The products are never below 1/2, so a denominator of them is safe.
    """
    x = x * x.shape[-1] ** -0.25
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    # A product of two different numbers stands for both orders of them, its square for half of each.
    factor = torch.where(i == j, 0.5**0.5, 1.0).to(x.dtype)
    return torch.cat((torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j] * factor), -1)


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu1": elu1,
    "relu": torch.relu,
    "identity": lambda x: x,
    "taylor2": taylor2,
}
