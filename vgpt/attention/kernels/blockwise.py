"""Causal attention by batched matrix products over blocks of queries, each against the keys that it may see.

Without a window those are the keys up to the block's end: nearly half of the square is never computed. With a window,
those from one window before its start: time O(T * window). Query heads that share a key/value head are folded into one
product: keys and values are not expanded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.attention.kernels.scores import PLAIN, ScoreMods, softmax_backward
from vgpt.attention.kernels.tables import KeptTables

_masks = KeptTables()

# The keys before a block are rounded up to a multiple of this: measured 5 to 12 % faster than odd numbers of keys.
_ALIGNED = 16
# Up to this window the weights stay in memory for the backward pass, up to 2.5 times the numbers of queries, keys,
# values and outputs of heads of width 64. Computing them again instead costs 15 to 30 % of the time.
_LARGEST_KEPT = 512
_HALF = (torch.bfloat16, torch.float16)


def blockwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offset: int = 0,
    rows: int | None = None,
    *,
    mods: ScoreMods = PLAIN,
    window: int | None = None,
    keep: bool | None = None,
) -> Tensor:
    """Attend as `vgpt.attention.kernels.backends.attend` does, with a window where one is given.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, offset + T, D).
        v: values (B, G, offset + T, Dv).
        offset: position of the first query.
        rows: queries in a block; only changes the speed.
        mods: what is done to the scores.
        window: keys that a query sees, its own included; None for all up to its own.
        keep: whether the weights stay in memory for the backward pass, T * (window + rows) numbers per head or T^2 / 2
            without a window, or are computed again; only changes speed and memory.
    """
    tokens, reach = q.shape[2], offset + q.shape[2] if window is None else window
    if rows is None:
        # Measured: 64 is best up to 512 tokens or a window of 256, 128 above.
        rows = 64 if tokens <= 512 or reach <= 256 else 128
    if keep is None:
        keep = window is None or window <= _LARGEST_KEPT
    factor = mods.factor(q.shape[-1])
    plan = _Plan(q.shape[1], k.shape[1], tokens, offset, min(rows, tokens), factor, window, keep)
    # Autograd sees only tensors that are arguments themselves.
    return _Blocks.apply(q, k, v, mods.sinks, mods.slopes, plan)


@dataclass(frozen=True)
class _Plan:
    """How the work is cut up: the arguments of `blockwise` with H query and G key/value heads."""

    H: int
    G: int
    tokens: int
    offset: int
    rows: int
    scale: float
    window: int | None
    keep: bool

    @property
    def back(self) -> int:
        """Keys before a block's first query that take part in its product, where there are so many."""
        if self.window is None:
            return self.offset + self.tokens
        return -(-(self.window - 1) // _ALIGNED) * _ALIGNED

    def tiles(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield for each block its first query, its number of queries, its first key and the end of its keys."""
        for start in range(0, self.tokens, self.rows):
            m = min(self.rows, self.tokens - start)
            first = self.offset + start
            yield start, m, max(0, first - self.back), first + m


class _Blocks(torch.autograd.Function):
    """The products of `blockwise` with their gradients, written out so that each block touches only keys it may see.

    Inside, heads are folded: n = B G batches of (H / G) rows per query, (n, fold * rows, D). A sink is one more column
    of the scores, behind the keys, without a value.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, slopes: Tensor | None, plan: _Plan
    ) -> Tensor:
        """Return (B, H, T, Dv), laid out as (B, T, H, Dv)."""
        B, H, T, D = q.shape
        Dv, n = v.shape[-1], B * plan.G
        keys, values = _dense(k.reshape(n, -1, D)), _dense(v.reshape(n, -1, Dv))
        bias = _bias(plan, slopes, q)
        out = q.new_empty(B, T, H, Dv)
        kept: list[Tensor] = []
        for start, m, low, high in plan.tiles():
            queries = q[:, :, start : start + m].reshape(n, -1, D)
            weights = _weights(queries, keys[:, low:high], bias, sinks, plan)
            y = torch.bmm(weights[..., : high - low], values[:, low:high])
            out[:, start : start + m] = y.view(B, H, m, Dv).transpose(1, 2)
            if any(ctx.needs_input_grad):
                kept += [queries, weights] if plan.keep else [queries]
        ctx.save_for_backward(keys, values, bias, sinks, *kept)
        ctx.plan, ctx.batch, ctx.sink_dtype = plan, B, None if sinks is None else sinks.dtype
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys, values and sinks."""
        (grad,) = grad_outputs
        keys, values, bias, sinks, *kept = ctx.saved_tensors
        plan, B = ctx.plan, ctx.batch
        G, fold = plan.G, plan.H // plan.G
        n, _, D = keys.shape
        Dv = values.shape[-1]
        d_q = grad.new_empty(B, plan.H, plan.tokens, D)
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
        d_sinks = None if sinks is None else torch.zeros(G, fold, dtype=torch.float64, device=grad.device)
        stride = 2 if plan.keep else 1
        for i, (start, m, low, high) in enumerate(plan.tiles()):
            queries, seen = kept[stride * i], high - low
            weights = kept[2 * i + 1] if plan.keep else _weights(queries, keys[:, low:high], bias, sinks, plan)
            part = grad[:, :, start : start + m].reshape(n, fold * m, Dv)
            d_values[:, low:high].baddbmm_(weights[..., :seen].mT, part)
            d_weights = part.new_zeros(weights.shape) if d_sinks is not None else part.new_empty(weights.shape)
            d_weights[..., :seen].baddbmm_(part, _dense(values[:, low:high]).mT, beta=0)
            d_scores = softmax_backward(d_weights, weights)
            if d_sinks is not None:
                d_sinks += d_scores[..., seen].view(B, G, fold, m).sum((0, 3), dtype=torch.float64)
                d_scores = d_scores[..., :seen]
            d_keys[:, low:high].baddbmm_(d_scores.mT, queries, alpha=plan.scale)
            d_queries = grad.new_empty(n, fold * m, D)
            d_queries.baddbmm_(d_scores, keys[:, low:high], beta=0, alpha=plan.scale)
            d_q[:, :, start : start + m] = d_queries.view(B, plan.H, m, D)
        d_sink = None if d_sinks is None else d_sinks.view(-1).to(ctx.sink_dtype)
        return d_q, d_keys.view(B, G, -1, D), d_values.view(B, G, -1, Dv), d_sink, None, None


def _dense(x: Tensor) -> Tensor:
    """Return matrices (n, S, D) that follow each other in memory, where products want them so.

    Of others torch hands oneDNN, which multiplies half precision on CPUs, a copy at every product, and transposed ones
    are copied number by number.
    """
    return x.contiguous() if x.device.type == "cpu" and x.dtype in _HALF else x


def _weights(queries: Tensor, keys: Tensor, bias: Tensor, sinks: Tensor | None, plan: _Plan) -> Tensor:
    """Return the softmax (n, fold * m, keys, and one more with sinks) of one block of m queries."""
    n, width, _ = queries.shape
    G, fold, seen = plan.G, plan.H // plan.G, keys.shape[1]
    m, columns = width // fold, seen + (sinks is not None)
    # Memory for the sink's column is there from the start; the product fills the rest.
    scores = queries.new_empty(n, width, columns)
    scores[..., :seen].baddbmm_(queries, _dense(keys).mT, beta=0, alpha=plan.scale)
    by_head = scores.view(-1, G, fold, m, columns)
    # The first blocks have fewer keys than the bias, those without a window more: all end at their last query.
    end = bias.shape[-1] - plan.rows + m
    reach = min(seen, end)
    by_head[..., seen - reach : seen] += bias[..., :m, end - reach : end]
    if sinks is not None:
        by_head[..., seen] = sinks.view(G, fold, 1).to(scores.dtype)
    # The CPU kernel computes in float32 whatever type goes in and comes out.
    return scores.softmax(-1).to(keys.dtype)


def _bias(plan: _Plan, slopes: Tensor | None, q: Tensor) -> Tensor:
    """Return what to add to the scores of a block, (rows, keys) or per head (G, fold, rows, keys).

    Its last key is that of the block's last query. Without window and slopes only the keys of the block's own queries
    need one.
    """
    if slopes is None:
        back = 0 if plan.window is None else plan.back
        return _masks(_hidden, plan.rows, back, plan.window, q.dtype, q.device)
    queries = torch.arange(plan.back, plan.back + plan.rows, device=q.device)[:, None]
    distance = (queries - torch.arange(plan.back + plan.rows, device=q.device)).clamp_(min=0)
    # Relative distances keep the biases of near keys small, where a low precision still tells them apart.
    fall = slopes.to(torch.promote_types(q.dtype, torch.float32)).view(plan.G, -1, 1, 1) * distance
    return _hidden(plan.rows, plan.back, plan.window, q.dtype, q.device) - fall.to(q.dtype)


def _hidden(rows: int, back: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (rows, back + rows) of 0 and, where a key is hidden, -inf, for `rows` queries after `back` keys."""
    queries = torch.arange(back, back + rows, device=device)[:, None]
    keys = torch.arange(back + rows, device=device)
    hidden = (keys > queries) if window is None else (keys > queries) | (queries - keys >= window)
    return torch.zeros(rows, back + rows, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
