"""Attention over a sliding window in time and memory O(T * window), with exact gradients.

- `blockwise`: matrix products over blocks of queries with the keys in their reach, on CPUs
  (vgpt.attention.kernels.blockwise).
- `folded`: the same blocks as one batch of ordinary attention: few large calls, which GPUs need, and plain enough for a
  compiler.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.blockwise import blockwise
from vgpt.attention.kernels.scores import PLAIN, ScoreMods

# Speed of `blockwise` relative to causal attention by torch's fused kernel, forward and backward (above 1 = faster),
# one thread of an AMD EPYC with avx512_bf16, torch 2.13, 12 heads of width 64:
#
#   T              1024   1024   1024   2048   4096
#   window          128    256    900   1536    128
#   float32         3.7    2.4    1.2    1.2   10.2
#   bfloat16        4.0    3.5    2.1    1.2   11.4
#
# It is therefore right for every window shorter than the sequence. `folded` comes to 0.5 to 0.7 of that.


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Softmax attention of each query over the `window` latest keys, its own included.

    Args:
        q: queries (B, H, T, D), of the last T positions.
        k: keys (B, G, S, D), S at least T; G divides H, and neighboring query heads share a key/value head.
        v: values (B, G, S, Dv).
        window: keys that a query sees, at least 1.
        mods: what is done to the scores.

    Returns:
        (B, H, T, Dv) in the type of q, not necessarily contiguous.
    """
    offset = k.shape[2] - q.shape[2]
    if window >= k.shape[2]:
        return attend(q, k, v, offset=offset, mods=mods)
    # `blockwise` keeps scores in the type of q: float16 would overflow. A compiler fuses what it sees; this hides it.
    if q.device.type == "cpu" and q.dtype is not torch.float16 and not torch.compiler.is_compiling():
        return blockwise(q, k, v, offset, mods=mods, window=window)
    return folded(q, k, v, window, mods=mods)


def folded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    rows: int | None = None,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Attend as `windowed` does, `rows` queries at a time, all blocks in one call.

    Queries whose window reaches the first key are plain causal attention and go first; from there on all blocks look
    alike. Keys are copied (window + rows) / rows times.
    """
    offset = k.shape[2] - q.shape[2]
    early = min(q.shape[2], max(0, window - offset))
    start, late = offset + early, q.shape[2] - early
    parts: list[Tensor] = []
    if early:
        near = slice(0, start)
        q_early, k_early, v_early = q[:, :, :early], k[:, :, near], v[:, :, near]
        parts.append(attend(q_early, k_early, v_early, offset=offset, mods=mods))
    if late:
        rows = min(rows or max(64, window), late)
        count = -(-late // rows)
        spare = (0, 0, 0, count * rows - late)  # queries and keys that nothing real sees fill the last block
        queries = F.pad(q[:, :, early:], spare).unflatten(2, (count, rows)).transpose(1, 2).flatten(0, 1)
        keys, values = (
            F.pad(x[:, :, start - window :], spare).unfold(2, window + rows, rows).permute(0, 2, 1, 4, 3).flatten(0, 1)
            for x in (k, v)
        )
        positions = torch.arange(window, window + rows, device=q.device)[:, None]
        distance = positions - torch.arange(window + rows, device=q.device)
        mask = (distance >= 0) & (distance < window)
        # The CPU's fused kernel gains nothing from bfloat16, plain products do.
        fused = q.device.type != "cpu" or q.dtype is not torch.bfloat16
        y = attend(queries, keys, values, offset=window, mask=mask, flash=fused, mods=mods)
        parts.append(y.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)[:, :, :late])
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
