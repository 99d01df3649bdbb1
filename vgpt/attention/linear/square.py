"""Linear attention over short sequences by the scores of all pairs, with its gradients written out.

Where a sequence is hardly longer than its heads are wide, a state saves no products and costs operations. Blocks of
queries meet the keys up to their end, so that little of what is hidden is computed. Features and scores stay in memory
for the backward pass, as they do in softmax attention. Speed relative to torch's fused causal softmax, forward and
backward with 12 heads of 64 on one core of an AMD EPYC, torch 2.13 (above 1 = faster):

    T                   64    128    192
    float32           0.73   0.91   1.14
    bfloat16          1.70   1.58   1.24

The sweep takes 1.2 to 1.5 times as long. At 64 tokens in float32 the products alone, six where the fused kernel has
seven, take 0.38 ms of its 0.61 ms: what remains for all else is less than fifty calls cost.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.attention.linear.decay import Decay
from vgpt.attention.linear.features import FeatureMap

_ROWS = 64
"""Queries of a block. Only changes the speed: 32 costs up to a tenth more time."""


class Square(torch.autograd.Function):
    """`vgpt.attention.linear.sweep.sweep` from no state and without keeping one."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor | None,
        feature_map: FeatureMap,
        eps: float | None,
    ) -> Tensor:
        """Return outputs (B, H, T, v), laid out as (B, T, H, v); without `eps` not divided by the sums of weights."""
        T, dtype = q.shape[2], torch.promote_types(q.dtype, torch.float32)
        # Queries and keys lie side by side, so that each pass over memory is one call for both.
        bases = q.new_empty(2, *q.shape, dtype=dtype)
        bases[0].copy_(q)
        bases[1].copy_(k)
        features, decay = feature_map.base_(bases), Decay(slopes, dtype)
        # Products take values as they lie, each token's heads side by side.
        queries, keys, values = *features.flatten(1, 2), v.to(dtype).flatten(0, 1)
        out, sums = like_heads(v, v.dtype), None if eps is None else features.new_empty(*v.shape[:3], 1)
        kept: list[Tensor | None] = []
        for a, b in _rows(T):
            products = torch.bmm(queries[:, a:b], keys[:, :b].mT).view(*q.shape[:2], b - a, b)
            kernel = feature_map.kernel(products)
            weights = decay.within_(kernel, a)
            y = torch.bmm(weights.flatten(0, 1), values[:, :b]).view(*q.shape[:2], b - a, -1)
            if eps is None or sums is None:
                out[:, :, a:b] = y
            else:
                # As a product, which is how the variant's costs state it, and as fast.
                torch.add(weights @ weights.new_ones(b, 1), eps, out=sums[:, :, a:b])
                torch.div(y, sums[:, :, a:b], out=out[:, :, a:b])
            # The identity's kernel is written over by its weights.
            kept += [weights, products if kernel is not products else None]
        ctx.save_for_backward(features, values, slopes, None if sums is None else out, sums, *kept)
        ctx.map, ctx.dtypes = feature_map, (q.dtype, v.dtype)
        return out

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        (grad,) = grad_outputs
        with torch.autocast(grad.device.type, enabled=False):
            return *_gradients(ctx, grad), None, None, None


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, values, slopes, out, sums, *kept = ctx.saved_tensors
    feature_map, decay, T = ctx.map, Decay(slopes, values.dtype), grad.shape[2]
    part = grad.new_empty(grad.shape, dtype=values.dtype)
    shares = None
    if sums is None:
        part.copy_(grad)
    else:
        # The sum of a row's weights is in the denominator of its whole output.
        torch.div(grad, sums, out=part)
        shares = (part * out).sum(-1, keepdim=True)
    d_features, d_values = torch.empty_like(features), torch.empty_like(part)
    queries, keys = features.flatten(1, 2)
    d_queries, d_keys = d_features.flatten(1, 2)
    rows, d_columns = part.flatten(0, 1), d_values.flatten(0, 1)
    # From the last block on, which sees all keys and thus fills what the others add to.
    for i, (a, b) in reversed(list(enumerate(_rows(T)))):
        weights, products = kept[2 * i : 2 * i + 2]
        d_weights = torch.bmm(rows[:, a:b], values[:, :b].mT).view(weights.shape)
        if shares is not None:
            d_weights.sub_(shares[:, :, a:b])
        d_products = feature_map.kernel_grad(products, decay.within_(d_weights, a)).flatten(0, 1)
        beta = 0 if b == T else 1
        d_queries[:, a:b].baddbmm_(d_products, keys[:, :b], beta=0)
        d_keys[:, :b].baddbmm_(d_products.mT, queries[:, a:b], beta=beta)
        d_columns[:, :b].baddbmm_(weights.flatten(0, 1).mT, rows[:, a:b], beta=beta)
    dtype, v_dtype = ctx.dtypes
    d_q, d_k = like_heads(features, dtype).copy_(feature_map.base_grad(features, d_features))
    return d_q, d_k, like_heads(d_values, v_dtype).copy_(d_values)


def _rows(tokens: int) -> list[tuple[int, int]]:
    """Return the bounds of blocks of queries, each of which meets the keys up to its end."""
    return [(start, min(start + _ROWS, tokens)) for start in range(0, tokens, _ROWS)]


def like_heads(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uninitialized memory of the shape (..., H, T, width) of x in which the heads of a token are neighbors."""
    *before, H, T, width = x.shape
    return x.new_empty(*before, T, H, width, dtype=dtype).transpose(-3, -2)
