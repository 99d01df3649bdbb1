"""Loss and gradient of a chunk of logits on a GPU in one pass: each row is read twice, written once, and held nowhere.

As separate operations in float32 the same takes some ten passes over memory. Needs Triton, which torch brings along on
Linux.
"""

# Triton reads annotations its own way: arguments of its functions are pointers and numbers.
# ruff: noqa: ANN001
# Triton states types of what its functions return that its own operators do not take.
# pyright: reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_WARPS = 8


def softmax_gradient_(logits: Tensor, targets: Tensor, scale: float, classes: int) -> Tensor:
    """Replace logits by `scale` times the gradient of their summed loss.

    Args:
        logits: (N, V), rows contiguous. The columns from `classes` on are padding: their gradient is zero.
        targets: (N,) int64, below `classes`.
        scale: factor on the gradient.
        classes: columns that take part in the softmax.

    Returns:
        The sum of the losses, float32, without dimensions.
    """
    N, V = logits.shape
    losses = torch.empty(N, dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, triton.next_power_of_2(V))
    launch: dict[str, Any] = {"classes": classes, "columns": V, "BLOCK": block, "num_warps": _WARPS}
    _softmax_gradient[(N,)](logits, targets, losses, logits.stride(0), scale, **launch)
    return losses.sum()


@triton.jit
def _softmax_gradient(
    logits,
    targets,
    losses,
    stride,
    scale,
    classes: tl.constexpr,
    columns: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One row: the softmax's denominator as it goes along (Milakov and Gimelshein 2018, arXiv 1805.02867), then p."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    # Read before anything is written; the reductions below make all threads wait for it.
    chosen = tl.load(logits + target).to(tl.float32)
    largest = -float("inf")
    total = 0.0
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits + column, mask=column < classes, other=-float("inf")).to(tl.float32)
        now = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - now) + tl.sum(tl.exp(x - now), 0)
        largest = now
    # The largest logit is taken off first: beside a large one the logarithm would be rounded away.
    tl.store(losses + row, largest - chosen + tl.log(total))
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits + column, mask=column < classes, other=-float("inf")).to(tl.float32)
        p = tl.exp(x - largest) / total
        gradient = tl.where(column == target, p - 1.0, p) * scale
        tl.store(logits + column, gradient.to(logits.dtype.element_ty), mask=column < columns)
