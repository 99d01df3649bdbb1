"""Chunked linear attention as two passes over the sequence that hold one chunk and one state at a time.

Nothing as long as the sequence is written besides the outputs and the gradients: features, scores and states live as
long as their chunk, in the processor's cache, and the backward pass makes them anew. On CPUs that is twice to four
times as fast as letting autograd record the batched form, and it is what keeps wide feature maps in memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgpt.attention.linear.decay import Decay
from vgpt.attention.linear.features import FeatureMap
from vgpt.attention.linear.square import Square, like_heads

DENOMINATOR_EPS = 1e-6
"""Added to denominators, as in the authors' own code: where no feature is positive, the output is zero."""
# Up to so many tokens scores of all pairs are the faster form: see vgpt/attention/linear/square.py.
_SQUARE = 192


def sweep(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    feature_map: FeatureMap,
    chunk_size: int,
    normalize: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute `vgpt.attention.linear.chunked.chunked_linear_attention`."""
    if state is None and not keep_state and q.shape[2] <= min(3 * chunk_size, _SQUARE):
        return Square.apply(q, k, v, slopes, feature_map, DENOMINATOR_EPS if normalize else None), None
    return _Sweep.apply(q, k, v, state, slopes, feature_map, chunk_size, normalize, keep_state)


class _Chunks:
    """The inputs, chunk by chunk, in the type of the state.

    Args:
        inputs: queries, keys (B, H, T, D) and values (B, H, T, v).
        feature_map: whose bases to return.
        dtype: type of all that is computed.
        chunk_size: most tokens of a chunk.
        ones: whether values get a last column of ones.
    """

    def __init__(
        self, inputs: Sequence[Tensor], feature_map: FeatureMap, dtype: torch.dtype, chunk_size: int, ones: bool
    ) -> None:
        self.q, self.k, self.v = inputs
        self.map, self.dtype, self.ones = feature_map, dtype, ones
        T = self.q.shape[2]
        self.bounds = [(start, min(start + chunk_size, T)) for start in range(0, T, chunk_size)]

    def queries(self, a: int, b: int) -> Tensor:
        """Return bases of queries (B, H, C, D)."""
        return self.map.base(self.q[:, :, a:b].to(self.dtype)).contiguous()

    def keys(self, a: int, b: int) -> Tensor:
        """Return bases of keys (B, H, C, D)."""
        return self.map.base(self.k[:, :, a:b].to(self.dtype)).contiguous()

    def values(self, a: int, b: int) -> Tensor:
        """Return values (B, H, C, columns)."""
        part = self.v[:, :, a:b].to(self.dtype)
        return torch.cat((part, torch.ones_like(part[..., :1])), -1) if self.ones else part.contiguous()


class _Sweep(torch.autograd.Function):
    """The chunked form with its gradients written out."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor | None,
        slopes: Tensor | None,
        feature_map: FeatureMap,
        chunk_size: int,
        normalize: bool,
        keep_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs (B, H, T, v), laid out as (B, T, H, v), and the last state."""
        settings = (feature_map, chunk_size)
        out, divisors, last = outputs(q, k, v, state, slopes, *settings, normalize, keep_state)
        ctx.save_for_backward(q, k, v, state, slopes, out if normalize else None, divisors)
        ctx.settings = settings
        return out, last

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys, values and the first state."""
        grad, grad_state = grad_outputs
        # Autocast is off in the forward pass, but may be on around the backward pass.
        with torch.autocast(grad.device.type, enabled=False):
            return *gradients(grad, grad_state, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


def outputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    feature_map: FeatureMap,
    chunk_size: int,
    normalize: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return outputs, laid out as (B, T, H, v), with `normalize` denominators (B, H, T, 1), and the last state."""
    B, H, T, _ = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    chunks, decay = _Chunks((q, k, v), feature_map, dtype, chunk_size, normalize), Decay(slopes, dtype)
    out = like_heads(v, v.dtype)
    divisors = v.new_empty(B, H, T, 1, dtype=dtype) if normalize else None
    memory = None if state is None else state.to(dtype)
    for a, b in chunks.bounds:
        queries, keys, values = chunks.queries(a, b), chunks.keys(a, b), chunks.values(a, b)
        y = decay.within_(feature_map.kernel(queries @ keys.mT)) @ values
        if memory is not None:
            y += decay.entering(feature_map.expand(queries)) @ memory
        if b < T or keep_state:
            memory = _absorb(memory, decay, feature_map.expand(keys), values)
        if divisors is None:
            out[:, :, a:b] = y
        else:
            divisors[:, :, a:b] = y[..., -1:] + DENOMINATOR_EPS
            out[:, :, a:b] = y[..., :-1] / divisors[:, :, a:b]
    return out, divisors, memory if keep_state else None


def gradients(
    grad: Tensor,
    grad_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    out: Tensor | None,
    divisors: Tensor | None,
    feature_map: FeatureMap,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Go forward once more for the queries and for what happens inside chunks, then backward for what the state brings.

    In the gradient of the state, `memory_grad`, keys and values meet all later queries. `out` and `divisors` are those
    of `outputs`, None without denominators.

    Returns:
        The gradients of queries, keys, values and the first state.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    T, width = q.shape[2], v.shape[-1]
    chunks, decay = _Chunks((q, k, v), feature_map, dtype, chunk_size, divisors is not None), Decay(slopes, dtype)
    d_q = like_heads(q, q.dtype)
    d_k, d_v = like_heads(k, dtype), like_heads(v, dtype)  # summed up in two passes, hence in the wider type

    def incoming(a: int, b: int) -> Tensor:
        parts = (None if x is None else x[:, :, a:b] for x in (out, divisors))
        return _by_columns(grad[:, :, a:b].to(dtype), *parts)

    memory = None if state is None else state.to(dtype)
    for a, b in chunks.bounds:
        queries, keys, values, d_y = chunks.queries(a, b), chunks.keys(a, b), chunks.values(a, b), incoming(a, b)
        products = queries @ keys.mT
        weights = decay.within_(feature_map.kernel(products))
        d_products = feature_map.kernel_grad(products, decay.within_(d_y @ values.mT))
        d_queries = d_products @ keys
        if memory is not None:
            d_queries += feature_map.expand_grad(queries, decay.entering(d_y) @ memory.mT)
        d_q[:, :, a:b] = feature_map.base_grad(queries, d_queries)
        d_k[:, :, a:b] = d_products.mT @ queries
        d_v[:, :, a:b] = weights.mT @ d_y[..., :width]
        if b < T:
            memory = _absorb(memory, decay, feature_map.expand(keys), values)

    memory_grad = grad_state
    for a, b in reversed(chunks.bounds):
        keys = chunks.keys(a, b)
        d_keys = d_k[:, :, a:b]
        if memory_grad is not None:
            d_features = decay.leaving(chunks.values(a, b) @ memory_grad.mT)
            d_keys = d_keys + feature_map.expand_grad(keys, d_features)
            d_v[:, :, a:b] += decay.leaving(feature_map.expand(keys)) @ memory_grad[..., :width]
        d_k[:, :, a:b] = feature_map.base_grad(keys, d_keys)
        if a > 0 or state is not None:
            memory_grad = _absorb(memory_grad, decay, feature_map.expand(chunks.queries(a, b)), incoming(a, b), True)
    d_state = None if state is None or memory_grad is None else memory_grad.to(state.dtype)
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype), d_state


def _by_columns(grad: Tensor, out: Tensor | None, divisors: Tensor | None) -> Tensor:
    """Return a chunk's gradient by numerators and, behind them, denominators, (B, H, C, columns)."""
    if divisors is None or out is None:
        return grad.contiguous()
    part = grad / divisors
    return torch.cat((part, -(part * out).sum(-1, keepdim=True)), -1)


def _absorb(memory: Tensor | None, decay: Decay, features: Tensor, rows: Tensor, backward: bool = False) -> Tensor:
    """Return a state that has also taken in a chunk: its keys and values, or, backward, its queries and gradients."""
    weighed = decay.entering(features) if backward else decay.leaving(features)
    new = weighed.mT @ rows
    return new if memory is None else new.add_(decay.over(memory, rows.shape[-2]))
