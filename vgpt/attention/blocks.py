"""Causal attention by batched matrix products over blocks of queries, each against the keys up to its end.

Nearly half of the square is never computed. Query heads that share a key/value head are folded into one product: keys
and values are not expanded. Keeps the weights for the backward pass, T^2 / 2 numbers per head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Not public, but what the gradient of every softmax calls.
_softmax_backward = torch._softmax_backward_data  # pyright: ignore[reportPrivateImportUsage]

_masks: dict[tuple[int, torch.dtype, str], Tensor] = {}


def blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offset: int = 0,
    rows: int | None = None,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attend as `vgpt.attention.backends.attend` does; the number of `rows` in a block only changes the speed."""
    tokens = q.shape[2]
    # Measured: 64 is best up to 512 tokens, 128 above.
    rows = rows or (64 if tokens <= 512 else 128)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return _Blocks.apply(q, k, v, sinks, slopes, offset, min(rows, tokens), factor)


class _Blocks(torch.autograd.Function):
    """The products of `blocks` with their gradients, written out so that each block touches only keys it sees.

    Inside, heads are folded: n = B G batches of (H / G) rows per query, (n, fold * rows, D). A sink is one more column
    of the scores, behind the keys, without a value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        slopes: Tensor | None,
        offset: int,
        rows: int,
        scale: float,
    ) -> Tensor:
        """Return (B, H, T, Dv), laid out as (B, T, H, Dv)."""
        B, H, T, D = q.shape
        G, Dv = k.shape[1], v.shape[-1]
        n, fold = B * G, H // G
        keys, values = k.reshape(n, -1, D), v.reshape(n, -1, Dv)
        out = q.new_empty(B, T, H, Dv)
        kept: list[Tensor] = []
        extra = 0 if sinks is None else 1
        for start in range(0, T, rows):
            m = min(rows, T - start)
            seen = offset + start + m
            queries = q[:, :, start : start + m].reshape(n, fold * m, D)
            # Memory for the sink's column is there from the start; the product fills the rest.
            scores = q.new_empty(n, fold * m, seen + extra)
            scores[..., :seen].baddbmm_(queries, keys[:, :seen].mT, beta=0, alpha=scale)
            by_head = scores.view(B, G, fold, m, seen + extra)
            if slopes is not None:
                by_head[..., :seen] += _distance_bias(slopes.view(G, fold, 1, 1), m, seen, q.dtype)
            if sinks is not None:
                by_head[..., seen] = sinks.view(G, fold, 1).to(q.dtype)
            by_head[..., seen - m : seen] += _causal_bias(m, q.dtype, q.device)
            # The CPU kernel computes in float32 whatever type goes in and comes out.
            weights = scores.softmax(-1).to(values.dtype)
            y = torch.bmm(weights[..., :seen], values[:, :seen])
            out[:, start : start + m] = y.view(B, H, m, Dv).transpose(1, 2)
            if any(ctx.needs_input_grad):
                kept += [queries, weights]
        ctx.save_for_backward(keys, values, *kept)
        ctx.layout = (B, H, T, G, offset, rows, scale)
        ctx.sink_dtype = None if sinks is None else sinks.dtype
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys, values and sinks."""
        (grad,) = grad_outputs
        keys, values, *kept = ctx.saved_tensors
        B, H, T, G, offset, rows, scale = ctx.layout
        D, Dv = keys.shape[-1], values.shape[-1]
        n, fold = B * G, H // G
        d_q = grad.new_empty(B, H, T, D)
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
        d_sinks = None if ctx.sink_dtype is None else torch.zeros(G, fold, dtype=torch.float64, device=grad.device)
        for i, start in enumerate(range(0, T, rows)):
            queries, weights = kept[2 * i : 2 * i + 2]
            m = min(rows, T - start)
            seen = offset + start + m
            part = grad[:, :, start : start + m].reshape(n, fold * m, Dv)
            d_values[:, :seen].baddbmm_(weights[..., :seen].mT, part)
            d_weights = part.new_zeros(weights.shape) if d_sinks is not None else part.new_empty(weights.shape)
            d_weights[..., :seen].baddbmm_(part, values[:, :seen].mT, beta=0)
            d_scores = _softmax_backward(d_weights, weights, -1, weights.dtype)
            if d_sinks is not None:
                d_sinks += d_scores[..., seen].view(B, G, fold, m).sum((0, 3), dtype=torch.float64)
                d_scores = d_scores[..., :seen]
            d_keys[:, :seen].baddbmm_(d_scores.mT, queries, alpha=scale)
            d_queries = grad.new_empty(n, fold * m, D).baddbmm_(d_scores, keys[:, :seen], beta=0, alpha=scale)
            d_q[:, :, start : start + m] = d_queries.view(B, H, m, D)
        d_sink = None if d_sinks is None else d_sinks.view(H).to(ctx.sink_dtype)
        return d_q, d_keys.view(B, G, -1, D), d_values.view(B, G, -1, Dv), d_sink, None, None, None, None


def _causal_bias(tokens: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    key = (tokens, dtype, str(device))
    if key not in _masks:
        # A mask born in inference mode could not take part in a later training step.
        with torch.inference_mode(False):
            _masks[key] = torch.full((tokens, tokens), -torch.inf, dtype=dtype, device=device).triu_(1)
    return _masks[key]


def _distance_bias(slopes: Tensor, queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """Return -slope * distance, (..., queries, keys); the last query stands at the last key, later keys get 0."""
    rows = torch.arange(keys - queries, keys, device=slopes.device)[:, None]
    distance = (rows - torch.arange(keys, device=slopes.device)[None, :]).clamp_(min=0)
    # Relative distances keep the biases of near keys small, where a low precision still tells them apart.
    return (-slopes.to(torch.promote_types(dtype, torch.float32)) * distance).to(dtype)
