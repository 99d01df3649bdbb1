"""Linear attention over short sequences as one square of scores, with its gradients written out.

Where a sequence is hardly longer than its heads are wide, a state saves no products and costs operations. Features and
scores stay in memory for the backward pass, T numbers per token and head, as they do in softmax attention of that
length. Speed relative to the sweep, forward and backward with 12 heads of 64 on one core of an AMD EPYC, torch 2.13
(above 1 = faster):

    T           64    128    192    256
    float32    1.7    1.4    1.1    0.9
    bfloat16   1.9    1.5    1.2    0.9
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.attention.linear.decay import Decay
from vgpt.attention.linear.features import FeatureMap


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
        products = queries @ keys.mT
        kernel = feature_map.kernel(products)
        weights = decay.within_(kernel)
        y, out, sums = weights @ values, _like_heads(v, v.dtype), None
        if eps is None:
            out.copy_(y)
        else:
            # As a product, which is how the variant's costs state it, and as fast.
            sums = (weights @ weights.new_ones(weights.shape[-1], 1)).add_(eps)
            torch.div(y, sums, out=out)
        kept = products if kernel is not products else None  # the identity's kernel is written over by its weights
        ctx.save_for_backward(queries, keys, values, weights, kept, slopes, None if sums is None else out, sums)
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
    queries, keys, values, weights, products, slopes, out, sums = ctx.saved_tensors
    feature_map, decay = ctx.map, Decay(slopes, values.dtype)
    part = torch.empty_like(values)
    if sums is None:
        d_weights = part.copy_(grad) @ values.mT
    else:
        # The sum of a row's weights is in the denominator of its whole output.
        torch.div(grad, sums, out=part)
        row = (grad * out).sum(-1, keepdim=True, dtype=values.dtype).div(sums)
        d_weights = (part @ values.mT).sub_(row)
    d_products = feature_map.kernel_grad(products, decay.within_(d_weights))
    parts = (
        feature_map.base_grad(queries, d_products @ keys),
        feature_map.base_grad(keys, d_products.mT @ queries),
        weights.mT @ part,
    )
    d_q, d_k, d_v = (_like_heads(x, dtype).copy_(x) for x, dtype in zip(parts, ctx.dtypes, strict=True))
    return d_q, d_k, d_v


def _like_heads(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory of the shape (B, H, T, width) of x in which the heads of a token are neighbours."""
    B, H, T, width = x.shape
    return x.new_empty(B, T, H, width, dtype=dtype).transpose(1, 2)
