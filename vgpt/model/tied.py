"""The token embedding and the output layer as one weight, with one gradient.

Autograd would make two gradients of the weight's size and add them up. That of the embedding has a row for each token
and zeros for all other words: here its rows are added to the output layer's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Numbers of the weight from which on the second gradient would cost more than the calls from Python.
_FEWEST = 1 << 20


def embed(ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of `weight` (V, C) at `ids`, (..., C), and the weight for use as output layer.

    The gradient of a large weight on a CPU can be taken once, as that of the loss: it is added up in place.
    """
    if weight.device.type != "cpu" or weight.numel() < _FEWEST or not torch.is_grad_enabled():
        return F.embedding(ids, weight), weight
    return _Tied.apply(ids, weight)


class _Tied(torch.autograd.Function):
    """Both uses of the weight; its gradient waits for both."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedded tokens and the weight."""
        ctx.save_for_backward(ids)
        ctx.like = weight.shape, weight.dtype
        ctx.set_materialize_grads(False)
        return F.embedding(ids, weight), weight.detach()

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[None, Tensor | None]:
        """Add the embedding's gradient to the output layer's."""
        rows, total = grad_outputs
        (ids,) = ctx.saved_tensors
        if rows is None:
            return None, total
        if total is None:
            shape, dtype = ctx.like
            total = rows.new_zeros(shape, dtype=dtype)
        return None, total.index_add_(0, ids.flatten(), rows.flatten(0, -2).to(total.dtype))
