"""Linear attention over short sequences by the scores of all pairs, with its gradients written out.

Where a sequence is hardly longer than its heads are wide, a state saves no products and costs operations. Blocks of
queries meet the keys up to their end, so that little of what is hidden is computed. Features and scores stay in memory
for the backward pass, as they do in softmax attention. Speed relative to torch's fused causal softmax, forward and
backward with 12 heads of 64 on one core of an AMD EPYC, torch 2.13 (above 1 = faster):

    T                    64     96    128    192    256
    float32            0.77   0.91   1.01   1.12   1.17
    float32, sweep     0.53   0.64   0.76   0.92   1.15
    bfloat16           1.71   1.63   1.74   1.34   1.26
    bfloat16, sweep    1.21   1.11   1.25   1.05   1.20
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.attention.linear.decay import Decay
from vgpt.attention.linear.features import FeatureMap

_ROWS = 32
"""Queries of a block. Only changes the speed: 128 costs up to a quarter more time."""


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
        dtype = torch.promote_types(q.dtype, torch.float32)
        queries, keys = (feature_map.base(x.to(dtype)).contiguous() for x in (q, k))
        values, decay = v.to(dtype).contiguous(), Decay(slopes, dtype)
        out, sums = like_heads(v, v.dtype), None if eps is None else values.new_empty(*values.shape[:3], 1)
        kept: list[Tensor | None] = []
        for a, b in _rows(q.shape[2]):
            products = queries[:, :, a:b] @ keys[:, :, :b].mT
            kernel = feature_map.kernel(products)
            weights = decay.within_(kernel, a)
            y = weights @ values[:, :, :b]
            if eps is None or sums is None:
                out[:, :, a:b] = y
            else:
                # As a product, which is how the variant's costs state it, and as fast.
                sums[:, :, a:b] = (weights @ weights.new_ones(b, 1)).add_(eps)
                torch.div(y, sums[:, :, a:b], out=out[:, :, a:b])
            # The identity's kernel is written over by its weights.
            kept += [weights, products if kernel is not products else None]
        ctx.save_for_backward(queries, keys, values, slopes, None if sums is None else out, sums, *kept)
        ctx.map, ctx.dtypes = feature_map, (q.dtype, k.dtype, v.dtype)
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
    queries, keys, values, slopes, out, sums, *kept = ctx.saved_tensors
    feature_map, decay = ctx.map, Decay(slopes, values.dtype)
    part, shares = torch.empty_like(values), None
    if sums is None:
        part.copy_(grad)
    else:
        # The sum of a row's weights is in the denominator of its whole output.
        torch.div(grad, sums, out=part)
        shares = (grad * out).sum(-1, keepdim=True, dtype=values.dtype).div(sums)
    d_queries, d_keys, d_values = (torch.empty_like(x) for x in (queries, keys, values))
    # From the last block on, which sees all keys and thus fills what the others add to.
    for i, (a, b) in reversed(list(enumerate(_rows(grad.shape[2])))):
        weights, products = kept[2 * i : 2 * i + 2]
        d_weights = part[:, :, a:b] @ values[:, :, :b].mT
        if shares is not None:
            d_weights.sub_(shares[:, :, a:b])
        d_products = feature_map.kernel_grad(products, decay.within_(d_weights, a))
        d_queries[:, :, a:b] = d_products @ keys[:, :, :b]
        _add_product(d_keys[:, :, :b], d_products, queries[:, :, a:b], first=b == grad.shape[2])
        _add_product(d_values[:, :, :b], weights, part[:, :, a:b], first=b == grad.shape[2])
    parts = feature_map.base_grad(queries, d_queries), feature_map.base_grad(keys, d_keys), d_values
    d_q, d_k, d_v = (like_heads(x, dtype).copy_(x) for x, dtype in zip(parts, ctx.dtypes, strict=True))
    return d_q, d_k, d_v


def _rows(tokens: int) -> list[tuple[int, int]]:
    """Return the bounds of blocks of queries, each of which meets the keys up to its end."""
    return [(start, min(start + _ROWS, tokens)) for start in range(0, tokens, _ROWS)]


def _add_product(total: Tensor, rows: Tensor, columns: Tensor, *, first: bool) -> None:
    """Add to (B, H, b, width) the product of (B, H, m, b), transposed, and (B, H, m, width)."""
    flat = total.view(-1, *total.shape[2:])
    flat.baddbmm_(rows.flatten(0, 1).mT, columns.flatten(0, 1), beta=0 if first else 1)


def like_heads(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uninitialized memory of the shape (B, H, T, width) of x in which the heads of a token are neighbors."""
    B, H, T, width = x.shape
    return x.new_empty(B, T, H, width, dtype=dtype).transpose(1, 2)
