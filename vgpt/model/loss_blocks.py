"""The loss and its gradients on a CPU, with the logits in blocks of classes.

Logits over a whole vocabulary make poor operands: rows of 50,257 numbers begin at odd addresses, and the gradient of
the output layer, a product with them transposed, reaches two thirds of the speed of a layer's product. Blocks of a few
thousand classes are as fast as layers, and what is made for a block (the weights in the products' type, the gradient
back in that of the weights) is read again or written while it is in the processor's cache.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.model.products import matmul

CLASSES = 4096
"""Classes of a block."""

# Logits of one softmax: small enough to stay in the processor's cache.
_CACHED = 1 << 20
_LOG2_E = 1.0 / math.log(2.0)


class BlockedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy that makes its gradients along with the loss: see `gradients`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, once: bool) -> Tensor:
        """Return the mean loss and keep the gradients for it; with `once` they are given away."""
        loss, *found = gradients(hidden, weight, targets, rows)
        if once:
            ctx.found = found
        else:
            ctx.save_for_backward(*found)
        ctx.once = once
        return loss

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale what the forward pass kept.

        Raises:
            RuntimeError: it was given away before.
        """
        (grad,) = grad_outputs
        if ctx.once and ctx.found is None:
            raise RuntimeError("the gradient of this loss has been taken; it can be taken once")
        d_hidden, d_weight = ctx.found if ctx.once else ctx.saved_tensors
        ctx.found = None
        # A pass over the output layer's weights is worth a look at the factor.
        if grad != 1:
            scaled = Tensor.mul_ if ctx.once else Tensor.mul
            d_hidden, d_weight = (scaled(x, grad.to(x.dtype)) for x in (d_hidden, d_weight))
        return d_hidden, d_weight, None, None, None


def gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, *, classes: int = CLASSES
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean loss of `hidden @ weight.T` against `targets`, and its gradients by both factors.

    Args:
        hidden: (N, C), in the type of the products.
        weight: (V, C).
        targets: (N,) classes.
        rows: tokens whose logits are held at a time.
        classes: of a block.

    Returns:
        The loss in float32 or wider, and the gradients in the types of their factors.
    """
    N, V = hidden.shape[0], weight.shape[0]
    bounds = list(pairwise([*range(0, V, classes), V]))
    low = [weight[a:b].to(hidden.dtype) for a, b in bounds]
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, N, rows):
        part = slice(start, start + rows)
        h = hidden[part]
        logits = [matmul(h, block.T) for block in low]
        total += _softmax_gradient_(logits, targets[part], 1.0 / N)
        # Summed in the wider type, so that the sum over blocks is not rounded at each.
        d_h = torch.zeros_like(h, dtype=total.dtype)
        for (a, b), block, gradient in zip(bounds, low, logits, strict=True):
            d_h += matmul(gradient, block)
            d_block = matmul(gradient.T, h)
            if start:
                d_weight[a:b] += d_block
            else:
                d_weight[a:b] = d_block
        d_hidden[part] = d_h
    return total / N, d_hidden, d_weight


def _softmax_gradient_(logits: Sequence[Tensor], targets: Tensor, scale: float) -> Tensor:
    """Replace logits, in blocks (N, classes), by `scale` times the gradient of their summed loss; return that sum."""
    widths = [block.shape[1] for block in logits]
    N, V = targets.shape[0], sum(widths)
    rows = min(N, max(1, _CACHED // V))
    wide = torch.promote_types(logits[0].dtype, torch.float32)
    memory, total = torch.empty(rows, V, dtype=wide), torch.zeros((), dtype=wide)
    for start in range(0, N, rows):
        part = slice(start, min(start + rows, N))
        p, goal = memory[: part.stop - start], targets[part, None]
        for piece, block in zip(p.split(widths, 1), logits, strict=True):
            piece.copy_(block[part])
        highest, chosen = p.amax(-1, keepdim=True), p.gather(1, goal)
        # On CPUs torch's exp2 takes a third of the time of its exp in float32.
        torch.add(highest * -_LOG2_E, p, alpha=_LOG2_E, out=p).exp2_()
        sums = p.sum(-1, keepdim=True)
        total += (sums.log() + highest - chosen).sum()
        p.mul_(scale / sums)
        p.scatter_add_(1, goal, p.new_full((1, 1), -scale).expand_as(goal))
        for piece, block in zip(p.split(widths, 1), logits, strict=True):
            block[part] = piece
    return total
