"""`sweep` as an operation that torch.compile takes as one piece.

A compiler that saw the sweep's loop would unroll it, and the batched form keeps all features and states for the
backward pass: for a wide feature map gigabytes a layer. As one operation it keeps what the sweep keeps.
"""

from typing import Any

import torch
from torch import Tensor

from vgpt.attention.linear.features import FEATURE_MAPS, FeatureMap
from vgpt.attention.linear.square import like_heads
from vgpt.attention.linear.sweep import gradients, outputs


def compiled_sweep(
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
    """Compute `vgpt.attention.linear.sweep.sweep`, for a map of FEATURE_MAPS."""
    name = next(name for name, known in FEATURE_MAPS.items() if known is feature_map)
    out, _, last = _forward(q, k, v, state, slopes, name, chunk_size, normalize, keep_state)
    return out, last if keep_state else None


@torch.library.custom_op("vgpt::sweep", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    feature_map: str,
    chunk_size: int,
    normalize: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `outputs` returns; an operation has no optional results, so what is None there is empty here."""
    results = outputs(q, k, v, state, slopes, FEATURE_MAPS[feature_map], chunk_size, normalize, keep_state)
    out, divisors, last = (_none(q) if x is None else x for x in results)
    return out, divisors, last


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    feature_map: str,
    chunk_size: int,
    normalize: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (B, H, T, _), none = q.shape, _none(q)
    features = FEATURE_MAPS[feature_map].expand(q[:, :, :1]).shape[-1]
    last = none.new_empty(B, H, features, v.shape[-1] + normalize) if keep_state else none
    return like_heads(v, v.dtype), none.new_empty(B, H, T, 1) if normalize else none.clone(), last


@torch.library.custom_op("vgpt::sweep_backward", mutates_args=())
def _backward(
    grad: Tensor,
    grad_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    out: Tensor | None,
    divisors: Tensor | None,
    feature_map: str,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `gradients` returns, with something empty for a state that was not there."""
    saved = (q, k, v, state, slopes, out, divisors)
    *found, d_state = gradients(grad, grad_state, *saved, FEATURE_MAPS[feature_map], chunk_size)
    d_q, d_k, d_v = found
    return d_q, d_k, d_v, _none(q) if d_state is None else d_state


@_backward.register_fake
def _(
    grad: Tensor,
    grad_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    out: Tensor | None,
    divisors: Tensor | None,
    feature_map: str,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = (like_heads(x, x.dtype) for x in (q, k, v))
    return d_q, d_k, d_v, _none(q) if state is None else torch.empty_like(state)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, state, slopes, feature_map, chunk_size, normalize, keep_state = inputs
    out, divisors, _ = output
    ctx.save_for_backward(q, k, v, state, slopes, *((out, divisors) if normalize else (None, None)))
    ctx.settings, ctx.keep_state = (feature_map, chunk_size), keep_state


def _gradients(ctx: Any, grad: Tensor, _: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    found = _backward(grad, grad_state if ctx.keep_state else None, *saved, *ctx.settings)
    *others, d_state = found
    return *others, None if saved[3] is None else d_state, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _none(q: Tensor) -> Tensor:
    """Return something empty in the type of the state."""
    return q.new_empty(0, dtype=torch.promote_types(q.dtype, torch.float32))
