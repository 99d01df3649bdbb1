"""The ground truth of softmax attention: the formula, one query at a time, in whatever precision it is given.

Slow on purpose and free of every trick of the fast paths; tests and `vgpt verify` hold those against it.
"""

import torch
from torch import Tensor


def attention_by_loop(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Compute softmax(q k^T * scale) v over the visible keys only.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, S, D); key/value head h * G // H serves query head h.
        v: values (B, G, S, Dv).
        mask: (T, S) booleans, True where a query sees a key; every query sees at least one.
        scale: factor on the scores; 1 / sqrt(D) by default.

    Returns:
        (B, H, T, Dv). Hidden keys are left out of the sums, not weighted with zero.
    """
    heads, groups = q.shape[1], k.shape[1]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    rows: list[Tensor] = []
    for h in range(heads):
        g = h * groups // heads
        for t in range(q.shape[2]):
            seen = mask[t].nonzero()[:, 0]
            scores = (q[:, h, t, None, :] * k[:, g, seen]).sum(-1) * factor  # (B, seen)
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            weights = weights / weights.sum(-1, keepdim=True)
            rows.append((weights[..., None] * v[:, g, seen]).sum(1))  # (B, Dv)
    return torch.stack(rows, 1).unflatten(1, (heads, q.shape[2]))
