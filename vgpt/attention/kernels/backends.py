"""Ways to compute softmax attention, and the measured rule that picks one.

- `sdpa`: torch's fused kernel.
- `blockwise`: batched matrix products over blocks of queries (vgpt.attention.kernels.blockwise).
- `naive`: the formula in plain matrix products over the whole square; what `--no-flash` asks for.
- `flex`: torch's FlexAttention, a kernel compiled for what it computes (vgpt.attention.kernels.flex); on CUDA, for
  whole sequences under a mask, sinks or slopes, for which `sdpa` would need wider keys or a bias for each pair and
  head.

Hidden keys get a weight of exactly zero in all, so gradients to the future are exactly zero. Softmax is computed
in float32 or wider throughout; `blockwise` rounds its weights to the type of the values, as the fused kernels do.

All of them know what `vgpt.attention.kernels.scores.ScoreMods` does to the scores: a scale, sinks, and ALiBi's slopes.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.kernels.blockwise import blockwise
from vgpt.attention.kernels.flex import flex_attend
from vgpt.attention.kernels.scores import PLAIN, ScoreMods, softmax_with_sinks
from vgpt.attention.kernels.single_query import single_query

# Speed of `blockwise` relative to `sdpa`, forward and backward (above 1 = faster), by benchmarks/attention_backends.py
# on 2 cores of an AMD EPYC with avx512_bf16, torch 2.13:
#
#   T               64    128    256    512   1024   2048
#   bfloat16       4.1    3.2    2.3    2.4    1.7    1.5
#   float32        1.0    1.0    1.1    1.3    1.2    1.0
#
# From 2048 on the memory of the weights speaks against it in float32. Lowest and highest T, by type:
_BLOCKS_ON_CPU = {torch.bfloat16: (1, 2048), torch.float32: (192, 1024)}

Backend = Literal["table", "sdpa", "blockwise"]
"""What a run on a CPU may be computed by: what the table above says for each type and length, or one of them always."""
BACKENDS: tuple[Backend, ...] = ("table", "sdpa", "blockwise")
TABLE: Backend = "table"

_in_use: str = TABLE

# Fused kernels want widths in multiples of this.
_LANE = 8
# A position is written as 256 * high + low, two numbers that bfloat16 holds exactly up to 65,536 positions.
_SPLIT = 256


@contextmanager
def use_backend(name: str) -> Generator[None]:
    """Have a backend of `BACKENDS` compute causal attention on a CPU for as long as the block lasts.

    Raises:
        ValueError: there is none of that name.
    """
    global _in_use  # of the process, like torch's own switches of backends
    if name not in BACKENDS:
        raise ValueError(f"no attention backend {name!r}: {', '.join(BACKENDS)}")
    before, _in_use = _in_use, name
    try:
        yield
    finally:
        _in_use = before


def choose_backend(device: torch.device, dtype: torch.dtype, tokens: int, *, flash: bool = True) -> str:
    """Return "sdpa", "blockwise" or "naive" for causal attention; only CPUs depend on dtype, length and `use_backend`.

    Types that `blockwise` was never measured with go through `sdpa`.
    """
    if not flash:
        return "naive"
    # A compiler fuses what it sees; `blockwise` would hide it.
    if _in_use == TABLE or device.type != "cpu" or dtype not in _BLOCKS_ON_CPU or torch.compiler.is_compiling():
        return table_backend(device, dtype, tokens)
    return _in_use


def table_backend(device: torch.device, dtype: torch.dtype, tokens: int) -> Backend:
    """Return "sdpa" or "blockwise", as the table has it."""
    lowest, highest = _BLOCKS_ON_CPU.get(dtype, (0, -1))
    if device.type == "cpu" and lowest <= tokens <= highest and not torch.compiler.is_compiling():
        return "blockwise"
    return "sdpa"


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offset: int = 0,
    mask: Tensor | None = None,
    block_mask: BlockMask | None = None,
    flash: bool = True,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Softmax attention, causal where no mask says otherwise.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, S, D); G divides H, and neighboring query heads share a key/value head.
        v: values (B, G, S, Dv).
        offset: position of the first query, the first key standing at 0; without `mask`, query i sees the keys
            0 .. offset + i, and S = offset + T.
        mask: booleans, (T, S) or broadcastable to (B, H, T, S), True where a query sees a key; replaces the causal
            rule.
        block_mask: a mask for FlexAttention, which then computes the whole sequence; without `offset` and `mask`.
        flash: False computes the naive formula.
        mods: what is done to the scores.

    Returns:
        (B, H, T, Dv) in the type of q, not necessarily contiguous.
    """
    if block_mask is not None:
        return flex_attend(q, k, v, block_mask, mods=mods)
    if not flash:
        return naive(q, k, v, _visible(q, k, offset) if mask is None else mask, offset, mods=mods)
    if mask is None and q.shape[2] == 1:
        return single_query(q, k, v, mods=mods)
    if mask is None and choose_backend(q.device, q.dtype, q.shape[2]) == "blockwise":
        return blockwise(q, k, v, offset, mods=mods)
    return _sdpa(q, k, v, offset, mask, mods)


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    offset: int = 0,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Attend by the textbook formula: expanded heads, the whole score matrix, float32 softmax."""
    k, v = _expanded(q, k, v)
    scores = (q @ k.mT) * mods.factor(q.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mods.slopes is not None:
        rows = torch.arange(offset, offset + q.shape[2], device=q.device)[:, None]
        distance = (rows - torch.arange(k.shape[2], device=q.device)).abs()
        scores = scores - mods.slopes.to(scores.dtype).view(-1, 1, 1) * distance
    weights = softmax_with_sinks(scores.masked_fill(~mask, -torch.inf), mods.sinks)
    return weights.to(v.dtype) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, offset: int, mask: Tensor | None, mods: ScoreMods) -> Tensor:
    """Attend through torch's fused kernel, which knows neither sinks nor slopes: they become features and a key.

    A bias that depends on the key alone is a product with one more feature. What remains of -slope * (i - j) after
    taking off -slope * i, which no softmax without a sink notices, is slope * j. A sink is a key before all others
    whose product with every query is the head's logit and whose value is zero.
    """
    D, Dv, queries = q.shape[-1], v.shape[-1], q.shape[2]
    factor, sinks, slopes = mods.factor(D), mods.sinks, mods.slopes
    square = mask is None and offset == 0
    if sinks is not None and slopes is not None:
        mask = _bias_with_sinks(q, k, offset, _visible(q, k, offset) if mask is None else mask, sinks, slopes)
        k, v, square = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0)), False
    elif slopes is not None:
        q, k = _with_positions(q, k, slopes.to(q.dtype) / factor)
    elif sinks is not None:
        logit = (sinks.to(q.dtype) / factor).view(-1, 1, 1).expand(*q.shape[:-1], 1)
        q, k = torch.cat((q, logit), -1), F.pad(k, (0, 1))
        first = F.pad(k.new_ones(*k.shape[:2], 1, 1), (k.shape[-1] - 1, 0))
        k, v = torch.cat((first, k), 2), F.pad(v, (0, 0, 1, 0))
        if square:
            q = F.pad(q, (0, 0, 1, 0))  # a query that sees the sink alone, so that the square stays one
        else:
            mask = F.pad(_visible(q, k[:, :, 1:], offset) if mask is None else mask, (1, 0), value=True)
    if not square and mask is None:
        mask = _visible(q, k, offset)
    width = max(q.shape[-1], Dv)
    if {D, Dv} != {width}:
        width = -(-width // _LANE) * _LANE
        q, k, v = (F.pad(part, (0, width - part.shape[-1])) for part in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    if grouped and q.device.type == "cuda" and (mask is not None or q.dtype is torch.float32):
        k, v = _expanded(q, k, v)  # there the fused kernels without float16 or with a mask do not know groups
        grouped = False
    # A compiler that leaves lengths open compares them as symbols, which only an `if` turns into plain answers.
    flags = ({"is_causal": True} if square else {}) | ({"enable_gqa": True} if grouped else {})
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor, **flags)
    return y[:, :, y.shape[2] - queries :, :Dv]


def _bias_with_sinks(q: Tensor, k: Tensor, offset: int, mask: Tensor, sinks: Tensor, slopes: Tensor) -> Tensor:
    """Return what to add to the scores, (1 or B, H, T, 1 + S): the sink first, then ALiBi where the mask allows."""
    rows = torch.arange(offset, offset + q.shape[2], device=q.device)[:, None]
    distance = (rows - torch.arange(k.shape[2], device=q.device)).abs()
    wide = slopes.to(torch.promote_types(q.dtype, torch.float32))
    bias = (-wide.view(-1, 1, 1) * distance).to(q.dtype).masked_fill(~mask, -torch.inf)
    column = sinks.to(q.dtype).view(-1, 1, 1).expand(*bias.shape[:-1], 1)
    return torch.cat((column, bias), -1)


def _with_positions(q: Tensor, k: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Add two features to queries and keys whose product is slope * position of the key."""
    position = torch.arange(k.shape[2], device=k.device)
    digits = torch.stack((position // _SPLIT * _SPLIT, position % _SPLIT), -1).to(k.dtype)
    wide = slopes.view(-1, 1, 1).expand(*q.shape[:-1], 2)
    return torch.cat((q, wide), -1), torch.cat((k, digits.expand(*k.shape[:2], -1, -1)), -1)


def _expanded(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    fold = q.shape[1] // k.shape[1]
    return (k, v) if fold == 1 else (k.repeat_interleave(fold, 1), v.repeat_interleave(fold, 1))


def _visible(q: Tensor, k: Tensor, offset: int) -> Tensor:
    rows = torch.arange(offset, offset + q.shape[2], device=q.device)[:, None]
    return torch.arange(k.shape[2], device=q.device)[None, :] <= rows
