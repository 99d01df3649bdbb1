"""The ground truth of softmax attention: the formula, one query at a time, in whatever precision it is given.

Slow on purpose and free of every trick of the fast paths; tests and `vgpt verify` hold those against it.
"""

import torch
from torch import Tensor

from vgpt.attention.kernels.scores import PLAIN, ScoreMods


def attention_by_loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Compute softmax(q k^T * scale) v over the visible keys only.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, S, D); key/value head h * G // H serves query head h.
        v: values (B, G, S, Dv).
        mask: (T, S) booleans or (H, T, S), True where a query sees a key; every query sees at least one.
        mods: what is done to the scores; for slopes, the last query stands at the last key.

    Returns:
        (B, H, T, Dv). Hidden keys are left out of the sums, not weighted with zero.
    """
    heads, groups = q.shape[1], k.shape[1]
    queries, keys = q.shape[2], k.shape[2]
    factor = mods.factor(q.shape[-1])
    masks = mask.expand(heads, queries, keys)
    rows: list[Tensor] = []
    for h in range(heads):
        g = h * groups // heads
        for t in range(queries):
            seen = masks[h, t].nonzero()[:, 0]
            scores = (q[:, h, t, None, :] * k[:, g, seen]).sum(-1) * factor  # (B, seen)
            if mods.slopes is not None:
                scores = scores - mods.slopes[h].to(scores.dtype) * (t + keys - queries - seen)
            peak = scores.amax(-1, keepdim=True)
            weights = (scores - peak).exp()
            total = weights.sum(-1, keepdim=True)
            if mods.sinks is not None:
                total = total + (mods.sinks[h] - peak).exp()
            rows.append(((weights / total)[..., None] * v[:, g, seen]).sum(1))  # (B, Dv)
    return torch.stack(rows, 1).unflatten(1, (heads, queries))
