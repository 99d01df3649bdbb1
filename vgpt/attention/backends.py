"""Ways to compute softmax attention, and the measured rule that picks one.

- `sdpa`: torch's fused kernel.
- `blocks`: batched matrix products over blocks of queries, each against the keys up to its end, so that nearly half of
  the square is never computed. Query heads that share a key/value head are folded into one product: keys and values
  are not expanded. Keeps the weights for the backward pass, T^2 / 2 numbers per head, which `sdpa` does not.
- `naive`: the formula in plain matrix products over the whole square; what `--no-flash` asks for.

Hidden keys get a weight of exactly zero in all three, so gradients to the future are exactly zero. Softmax is computed
in float32 or wider throughout; `blocks` rounds its weights to the type of the values, as the fused kernels do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Speed of `blocks` relative to `sdpa`, forward and backward (above 1 = faster), by benchmarks/attention_backends.py on
# 2 cores of an AMD EPYC with avx512_bf16, torch 2.13:
#
#   T               64    128    256    512   1024   2048
#   bfloat16       4.1    3.2    2.3    2.4    1.7    1.5
#   float32        1.0    1.0    1.1    1.3    1.2    1.0
#
# From 2048 on the memory of the weights speaks against it in float32. Lowest and highest T, by type:
_BLOCKS_ON_CPU = {torch.bfloat16: (1, 2048), torch.float32: (192, 1024)}

# Not public, but what the gradient of every softmax calls.
_softmax_backward = torch._softmax_backward_data  # pyright: ignore[reportPrivateImportUsage]

_masks: dict[tuple[int, torch.dtype, str], Tensor] = {}


def choose_backend(device: torch.device, dtype: torch.dtype, tokens: int, *, flash: bool = True) -> str:
    """Return "sdpa", "blocks" or "naive" for causal attention over `tokens`; only CPUs depend on dtype and length."""
    if not flash:
        return "naive"
    lowest, highest = _BLOCKS_ON_CPU.get(dtype, (0, -1))
    if device.type == "cpu" and lowest <= tokens <= highest:
        return "blocks"
    return "sdpa"


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, offset: int = 0, mask: Tensor | None = None, flash: bool = True
) -> Tensor:
    """Causal softmax attention with 1 / sqrt(D) scaling.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, S, D); G divides H, and neighbouring query heads share a key/value head.
        v: values (B, G, S, D).
        offset: position of the first query; without `mask`, query i sees the keys 0 .. offset + i, and S = offset + T.
        mask: (T, S) booleans, True where a query sees a key; replaces the causal rule.
        flash: False computes the naive formula.

    Returns:
        (B, H, T, D) in the type of q, not necessarily contiguous.
    """
    if not flash:
        return naive(q, k, v, _visible(q, k, offset) if mask is None else mask)
    if mask is None and q.shape[2] == 1:
        return one_query(q, k, v)
    if mask is None and choose_backend(q.device, q.dtype, q.shape[2]) == "blocks":
        return blocks(q, k, v, offset)
    grouped = q.shape[1] != k.shape[1]
    if mask is None and offset == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    mask = _visible(q, k, offset) if mask is None else mask
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def one_query(q: Tensor, k: Tensor, v: Tensor, live: int | None = None) -> Tensor:
    """Attend with one query per head, which sees all keys: a decoding step.

    Args:
        q: queries (B, H, 1, D).
        k: keys (B, G, S, D). Contiguous ones are read as they lie; the CPU's bfloat16 product copies others.
        v: values (B, G, S, D), likewise.
        live: keys that exist; the rows after them are hidden and must hold finite numbers.
    """
    B, H, _, D = q.shape
    G, S = k.shape[1], k.shape[2]
    queries = q.reshape(B * G, H // G, D) * D**-0.5
    scores = torch.bmm(queries, k.reshape(B * G, S, D).mT)
    if live is not None and live < S:
        scores[:, :, live:] = -torch.inf
    return torch.bmm(scores.softmax(-1).to(v.dtype), v.reshape(B * G, S, D)).view(B, H, 1, D)


def blocks(q: Tensor, k: Tensor, v: Tensor, offset: int = 0, rows: int | None = None) -> Tensor:
    """Attend by matrix products over blocks of `rows` queries; their number only changes the speed."""
    tokens = q.shape[2]
    # Measured: 64 is best up to 512 tokens, 128 above.
    rows = rows or (64 if tokens <= 512 else 128)
    return _Blocks.apply(q, k, v, offset, min(rows, tokens))


def naive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend by the textbook formula: expanded heads, the whole score matrix, float32 softmax."""
    fold = q.shape[1] // k.shape[1]
    if fold > 1:
        k, v = k.repeat_interleave(fold, 1), v.repeat_interleave(fold, 1)
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.to(wide).masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.to(v.dtype) @ v


class _Blocks(torch.autograd.Function):
    """The products of `blocks` with their gradients, written out so that each block touches only keys it sees.

    Inside, heads are folded: n = B G batches of (H / G) rows per query, (n, fold * rows, D).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, offset: int, rows: int) -> Tensor:
        """Return (B, H, T, D), laid out as (B, T, H, D)."""
        B, H, T, D = q.shape
        n, fold = B * k.shape[1], H // k.shape[1]
        keys, values = k.reshape(n, -1, D), v.reshape(n, -1, D)
        out = q.new_empty(B, T, H, D)
        kept: list[Tensor] = []
        for start in range(0, T, rows):
            m = min(rows, T - start)
            seen = offset + start + m
            queries = q[:, :, start : start + m].reshape(n, fold * m, D)
            scores = q.new_empty(n, fold * m, seen).baddbmm_(queries, keys[:, :seen].mT, beta=0, alpha=D**-0.5)
            scores.view(n, fold, m, seen)[..., seen - m :] += _causal_bias(m, q.dtype, q.device)
            # The CPU kernel computes in float32 whatever type goes in and comes out.
            weights = scores.softmax(-1).to(values.dtype)
            y = torch.bmm(weights, values[:, :seen])
            out[:, start : start + m] = y.view(B, H, m, D).transpose(1, 2)
            if any(ctx.needs_input_grad):
                kept += [queries, weights]
        ctx.save_for_backward(keys, values, *kept)
        ctx.layout = (B, H, T, D, k.shape[1], offset, rows)
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients of queries, keys and values."""
        (grad,) = grad_outputs
        keys, values, *kept = ctx.saved_tensors
        B, H, T, D, G, offset, rows = ctx.layout
        n, fold = B * G, H // G
        d_q = grad.new_empty(B, H, T, D)
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
        for i, start in enumerate(range(0, T, rows)):
            queries, weights = kept[2 * i : 2 * i + 2]
            m = min(rows, T - start)
            seen = offset + start + m
            part = grad[:, :, start : start + m].reshape(n, fold * m, D)
            d_values[:, :seen].baddbmm_(weights.mT, part)
            d_weights = torch.bmm(part, values[:, :seen].mT)
            d_scores = _softmax_backward(d_weights, weights, -1, weights.dtype)
            d_keys[:, :seen].baddbmm_(d_scores.mT, queries, alpha=D**-0.5)
            d_queries = grad.new_empty(n, fold * m, D).baddbmm_(d_scores, keys[:, :seen], beta=0, alpha=D**-0.5)
            d_q[:, :, start : start + m] = d_queries.view(B, H, m, D)
        return d_q, d_keys.view(B, G, -1, D), d_values.view(B, G, -1, D), None, None


def _visible(q: Tensor, k: Tensor, offset: int) -> Tensor:
    rows = torch.arange(offset, offset + q.shape[2], device=q.device)[:, None]
    return torch.arange(k.shape[2], device=q.device)[None, :] <= rows


def _causal_bias(tokens: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    key = (tokens, dtype, str(device))
    if key not in _masks:
        # A mask born in inference mode could not take part in a later training step.
        with torch.inference_mode(False):
            _masks[key] = torch.full((tokens, tokens), -torch.inf, dtype=dtype, device=device).triu_(1)
    return _masks[key]
