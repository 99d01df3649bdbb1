"""Next-token cross-entropy, with a softmax in float32 and without holding all logits where they would be large.

On a CPU the chunks go through `vgpt.model.loss_blocks`.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vgpt.model.gpt2 import GPT2Model
from vgpt.model.loss_blocks import BlockedCrossEntropy
from vgpt.model.products import linear

# From this many logits on the chunked loss is the faster one: measured 1.0x at 2^19, 1.4x at 2^23, 1.2x at 2^26.
LARGE = 1 << 22
# The most logits that are held at a time: 256 MiB in float32.
CHUNK = 1 << 26
# On a GPU, whose products want thousands of rows: 4 GiB in bfloat16, and no more than a part of its memory. From 4,096
# rows to 32,768 at GPT-2's vocabulary a training step on an H100 becomes 2% faster.
GPU_CHUNK = 1 << 31
_GPU_SHARE = 16
# GPU products over a vocabulary that is no multiple of this are 4 to 6 times slower: measured on an H100 with 50,257
# rows beside 50,304 (benchmarks/gpu.py), so the copy of the output layer that is multiplied gets rows of zeros.
_LANES = 64


def cross_entropy(model: GPT2Model, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss in nats over all tokens.

    Args:
        model: predicts the token after each of `ids`.
        ids: (B, T) token ids.
        targets: (B, T) the tokens that follow.

    The gradient can be taken once.
    """
    hidden, head = model.hidden_and_head(ids)
    return linear_cross_entropy(hidden.flatten(0, 1), head, targets.flatten(), once=True)


def token_losses(model: GPT2Model, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the loss in nats of every token, (B, T) float32, without gradient."""
    with torch.no_grad():
        hidden = model.hidden(ids).flatten(0, 1)
        goals = targets.flatten()
        V = model.config.vocab_size
        rows = max(1, CHUNK // V)
        weight = model.head_weight
        if hidden.device.type == "cuda":
            weight = _padded(weight, _product_dtype(hidden))
        parts = [
            F.cross_entropy(linear(h, weight)[:, :V].float(), t, reduction="none")
            for h, t in zip(hidden.split(rows), goals.split(rows), strict=True)
        ]
        return torch.cat(parts).view_as(targets)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    large: int = LARGE,
    chunk: int | None = None,
    once: bool = False,
) -> Tensor:
    """Mean cross-entropy of `hidden @ weight.T` against `targets`.

    Args:
        hidden: (N, C).
        weight: (V, C), the output layer.
        targets: (N,) classes.
        large: number of logits above which they are made, used and dropped in chunks of tokens.
        chunk: number of logits in one chunk; `most_logits` of the device by default.
        once: give the gradients away when they are first asked for, in place of a copy of them.
    """
    dtype = _product_dtype(hidden)
    # float16 has no room for gradients that are not yet scaled, so it takes the plain way.
    if hidden.shape[0] * weight.shape[0] <= large or dtype == torch.float16 or not torch.is_grad_enabled():
        logits = linear(hidden, weight)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
    N, V = hidden.shape[0], weight.shape[0]
    chunks = -(-N * V // max(chunk or most_logits(hidden.device), V))
    rows = -(-N // chunks)
    if hidden.device.type == "cpu":
        return BlockedCrossEntropy.apply(hidden.to(dtype), weight, targets, rows, once)
    return _ChunkedCrossEntropy.apply(hidden.to(dtype), weight, targets, rows)


def most_logits(device: torch.device) -> int:
    """Return how many logits a training step on this device holds at a time."""
    if device.type != "cuda":
        return CHUNK
    fits = torch.cuda.get_device_properties(device).total_memory // (_GPU_SHARE * torch.bfloat16.itemsize)
    return min(GPU_CHUNK, fits)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type in which a product with `hidden` is computed here."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of the output layer (V, C) in `dtype`, with rows of zeros up to a multiple that suits GPUs."""
    V, C = weight.shape
    low = torch.empty(-(-V // _LANES) * _LANES, C, dtype=dtype, device=weight.device)
    low[:V].copy_(weight)
    low[V:].zero_()
    return low


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy that takes the gradient of each chunk of logits while it is at hand.

    Three matrix products as in the plain form, none of them twice; at no time more logits than one chunk.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        """Return the mean loss and keep the gradients for it."""
        on_gpu, V = hidden.device.type == "cuda", weight.shape[0]
        low = _padded(weight, hidden.dtype) if on_gpu else weight.to(hidden.dtype)
        gradient_ = _gpu_gradient(hidden.dtype) if on_gpu else _softmax_gradient_
        d_hidden = torch.empty_like(hidden)
        d_weight: Tensor | None = None
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for h, t, d_h in zip(hidden.split(rows), targets.split(rows), d_hidden.split(rows), strict=True):
            logits = h @ low.T
            total += gradient_(logits, t, 1.0 / targets.shape[0], V)
            torch.mm(logits, low, out=d_h)
            part = _wide_product(logits.T, h) if on_gpu else logits.T @ h
            d_weight = part.to(weight.dtype) if d_weight is None else d_weight.add_(part)
        assert d_weight is not None
        ctx.save_for_backward(d_hidden, d_weight[:V])
        return total / targets.shape[0]

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, Tensor, None, None]:
        """Scale what the forward pass kept."""
        d_hidden, d_weight = ctx.saved_tensors
        (grad,) = grad_outputs
        return d_hidden * grad.to(d_hidden.dtype), d_weight * grad.to(d_weight.dtype), None, None


@cache
def _gpu_gradient(dtype: torch.dtype) -> Callable[[Tensor, Tensor, float, int], Tensor]:
    """Return the fused kernel, or where torch came without Triton or in float64 the same by torch's operations."""
    if dtype is torch.float64 or find_spec("triton") is None:
        return _softmax_gradient_
    from vgpt.model.loss_kernel import softmax_gradient_

    return softmax_gradient_


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply with a float32 result, so that the sum over chunks is not rounded at each."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32)


def _softmax_gradient_(logits: Tensor, targets: Tensor, scale: float, classes: int) -> Tensor:
    """Replace logits (N, V) by `scale` times the gradient of their summed loss; return that sum.

    The columns from `classes` on are padding: their gradient is zero.
    """
    logits[:, classes:] = 0
    logits = logits[:, :classes]
    rows = max(1, CHUNK // classes)
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits.device)
    for part, goal in zip(logits.split(rows), targets.split(rows), strict=True):
        goal = goal[:, None]
        log_p = part.to(wide).log_softmax(-1)
        total -= log_p.gather(1, goal).sum()
        gradient = log_p.exp_()
        gradient.scatter_add_(1, goal, gradient.new_full((1, 1), -1.0).expand_as(goal))
        part.copy_(gradient.mul_(scale))
    return total
