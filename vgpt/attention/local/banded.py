"""Sliding-window attention in plain tensor operations: for compilers, which fuse them, and devices without a kernel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.backends import softmax_with_sinks


def banded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attend over the last `window` keys in O(T * window): T falls into blocks, each of which sees itself and the last.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, H, T, D).
        v: values (B, H, T, Dv).
        window: keys that a query sees, its own included.
        scale: factor on the products of queries and keys; 1 / sqrt(D) by default.
        sinks: (H,) logits in the denominators.
        slopes: (H,) how much a key's score falls per token of distance.

    Returns:
        (B, H, T, Dv).
    """
    _, H, T, D = q.shape
    gap = -T % window
    q, k, v = (F.pad(x, (0, 0, 0, gap)).unflatten(2, (-1, window)) for x in (q, k, v))  # (B, H, N, W, D)
    k, v = (torch.cat((F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x), 3) for x in (k, v))  # (B, H, N, 2W, D)
    scores = (q @ k.mT) * (D**-0.5 if scale is None else scale)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    distance = torch.arange(window, 2 * window, device=q.device)[:, None] - torch.arange(2 * window, device=q.device)
    seen = (distance >= 0) & (distance < window)
    # The first block has none before it.
    first = torch.arange(q.shape[2], device=q.device).view(-1, 1, 1) == 0
    seen = seen & ~(first & (distance > torch.arange(window, device=q.device)[:, None]))
    if slopes is not None:
        scores = scores - slopes.view(H, 1, 1, 1) * distance
    scores = scores.masked_fill(~seen, -torch.inf)
    weights = softmax_with_sinks(scores.flatten(2, 3), sinks).view_as(scores)
    return (weights.to(v.dtype) @ v).flatten(2, 3)[:, :, :T]
