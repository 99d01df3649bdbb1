"""Ways to compute softmax attention, and the measured rule that picks one.

- `sdpa`: torch's fused kernel.
- `matmul`: baddbmm, softmax, bmm. Query heads that share a key/value head are folded into one matrix product, so keys
  and values are never expanded. Faster than the fused kernel on CPUs in bfloat16 and at short lengths.
- `naive`: the formula in plain matrix products with the whole score matrix in float32; what `--no-flash` asks for.

Hidden keys get a weight of exactly zero in all three, so gradients to the future are exactly zero.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Longest T at which `matmul` beats `sdpa` on a CPU.
_CPU_MATMUL_UP_TO = {torch.bfloat16: 1024, torch.float32: 128}

_masks: dict[tuple[int, torch.dtype, str], Tensor] = {}


def choose_backend(device: torch.device, dtype: torch.dtype, tokens: int, *, flash: bool = True) -> str:
    """Return "sdpa", "matmul" or "naive" for self-attention over `tokens`; only CPUs depend on dtype and length."""
    if not flash:
        return "naive"
    if device.type == "cpu" and tokens <= _CPU_MATMUL_UP_TO.get(dtype, 0):
        return "matmul"
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
        (B, H, T, D) in the type of q, softmax computed in float32 or wider. Not necessarily contiguous.
    """
    tokens = q.shape[2]
    if not flash:
        return naive(q, k, v, _visible(q, k, offset) if mask is None else mask)
    if tokens == 1 and mask is None:
        return matmul(q, k, v, None)
    backend = choose_backend(q.device, q.dtype, tokens)
    if mask is None and offset == 0:
        if backend == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return matmul(q, k, v, _causal_bias(tokens, q.dtype, q.device))
    mask = _visible(q, k, offset) if mask is None else mask
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return matmul(q, k, v, _bias(mask, q.dtype))


def matmul(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attend by batched matrix products; `bias` (T, S) is added to the scores, -inf hides a key."""
    B, H, T, D = q.shape
    G, S = k.shape[1], k.shape[2]
    fold = H // G
    queries = q.reshape(B * G, fold * T, D)
    keys = k.reshape(B * G, S, D).mT
    values = v.reshape(B * G, S, v.shape[-1])
    scale = D**-0.5
    if bias is None:
        scores = torch.bmm(queries * scale, keys)
    else:
        bias = bias if fold == 1 else bias.repeat(fold, 1)
        scores = torch.baddbmm(bias.expand(B * G, -1, -1), queries, keys, alpha=scale)
    # The CPU kernel computes this softmax in float32 whatever type goes in and comes out.
    return torch.bmm(scores.softmax(-1).to(values.dtype), values).view(B, H, T, v.shape[-1])


def naive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend by the textbook formula: expanded heads, the whole score matrix, float32 softmax."""
    fold = q.shape[1] // k.shape[1]
    if fold > 1:
        k, v = k.repeat_interleave(fold, 1), v.repeat_interleave(fold, 1)
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.to(wide).masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.to(v.dtype) @ v


def _visible(q: Tensor, k: Tensor, offset: int) -> Tensor:
    rows = torch.arange(offset, offset + q.shape[2], device=q.device)[:, None]
    return torch.arange(k.shape[2], device=q.device)[None, :] <= rows


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _causal_bias(tokens: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    key = (tokens, dtype, str(device))
    if torch.compiler.is_compiling() or key not in _masks:
        # A mask born in inference mode could not take part in a later training step.
        with torch.inference_mode(False):
            bias = torch.full((tokens, tokens), -torch.inf, dtype=dtype, device=device).triu_(1)
        if torch.compiler.is_compiling():
            return bias
        _masks[key] = bias
    return _masks[key]
