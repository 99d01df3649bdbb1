"""Which blocks of keys each block of queries sees: the lists that FlexAttention's kernel walks through.

Made from what a variant knows of its pattern, never from the square of all pairs. Legend: R blocks of queries and as
many of keys, M places in the list of a row of blocks, H heads or 1 where all have the same mask.

The kernel skips what is in no list, computes full blocks as they are, and asks the mask function in partial ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

Pairs = Callable[[Any, Any], Any]
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_PAIRS_AT_A_TIME = 2**24


def assemble(partial: Tensor, full: Tensor, tokens: int, block_size: int, seen: MaskFunction, widest: int) -> BlockMask:
    """Make a mask from its lists.

    Args:
        partial: (H, R, M) distinct blocks of keys that a row of blocks sees in part, in any order; R = none.
        full: (H, R, M) those that it sees whole.
        tokens: length of the sequence.
        block_size: tokens per block, at least 2: the diagonal counts as seen in part.
        seen: of batch, head, query and key; exact for all pairs, so that a kernel without blocks gives the same.
        widest: most rows of blocks that see the same block of keys, in part or whole.
    """
    # Up to torch 2.12 the kernel walks through both kinds of lists with the strides of the first.
    width = max(partial.shape[-1], full.shape[-1])
    rows = partial.shape[1]
    partial, full = (F.pad(blocks, (0, width - blocks.shape[-1]), value=rows) for blocks in (partial, full))
    kv, full_kv = _listed(partial), _listed(full)
    q, full_q = _turned(partial, widest), _turned(full, widest)
    # The lists are shorter than a row, which `from_kv_blocks` would not understand.
    return BlockMask(
        seq_lengths=(tokens, tokens),
        kv_num_blocks=kv[0],
        kv_indices=kv[1],
        full_kv_num_blocks=full_kv[0],
        full_kv_indices=full_kv[1],
        q_num_blocks=q[0],
        q_indices=q[1],
        full_q_num_blocks=full_q[0],
        full_q_indices=full_q[1],
        BLOCK_SIZE=(block_size, block_size),
        mask_mod=seen,
    )


def window_mask(window: int, tokens: int, block_size: int, device: torch.device | str) -> BlockMask:
    """Show each query the `window` latest keys, its own included; time and memory O(R * window / block size)."""
    window = min(window, tokens)
    rows = -(-tokens // block_size)
    # A block d before the query's own is seen whole when its first key is near enough to the last query, and at all
    # when its last key is near enough to the first query.
    whole, reach = window // block_size - 1, (window - 2) // block_size + 1
    own = torch.arange(rows, device=device)[:, None]
    back = torch.arange(min(reach, rows - 1) + 1, device=device)
    blocks = torch.where(back <= own, own - back, rows)
    full = (back >= 1) & (back <= whole) & _complete(own, tokens, block_size)
    return assemble(
        blocks.masked_fill(full, rows)[None],
        blocks.masked_fill(~full, rows)[None],
        tokens,
        block_size,
        _window(window),
        len(back),
    )


def looked_up_mask(visible: Pairs, tokens: int, block_size: int, device: torch.device | str) -> BlockMask:
    """Find the blocks of any mask by asking for all pairs, a strip of queries at a time, so that memory is bounded.

    Args:
        visible: of query and key, any tensors that broadcast against each other.
        tokens: length of the sequence.
        block_size: tokens per block.
        device: where to look and where the mask is to live.
    """
    rows = -(-tokens // block_size)
    counts = [
        pairs.unflatten(0, (-1, block_size)).unflatten(-1, (rows, block_size)).sum((1, 3))
        for pairs in _strips(visible, tokens, block_size, device)
    ]
    count = torch.cat(counts)
    blocks = torch.arange(rows, device=device).expand(rows, rows)
    full = count == block_size**2
    partial = (count > 0) & ~full
    return assemble(
        blocks.masked_fill(~partial, rows)[None],
        blocks.masked_fill(~full, rows)[None],
        tokens,
        block_size,
        lambda batch, head, query, key: visible(query, key),
        rows,
    )


def same_pairs(one: Pairs, other: Pairs, tokens: int, block_size: int, device: torch.device | str) -> bool:
    """Tell whether two masks show the same, by all pairs; in the time of `looked_up_mask`, and with its memory."""
    strips = (_strips(visible, tokens, block_size, device) for visible in (one, other))
    return all(torch.equal(*pair) for pair in zip(*strips, strict=True))


def _strips(visible: Pairs, tokens: int, block_size: int, device: torch.device | str) -> Iterator[Tensor]:
    """Yield the mask, padded with False to whole blocks, in strips of whole rows of blocks."""
    rows = -(-tokens // block_size)
    length = rows * block_size
    strip = max(1, _PAIRS_AT_A_TIME // (block_size * length))
    key = torch.arange(length, device=device)
    for first in range(0, rows, strip):
        query = torch.arange(first * block_size, min(first + strip, rows) * block_size, device=device)[:, None]
        # Places after the last token exist for no one, a variant's tables included.
        pairs = torch.as_tensor(visible(query.clamp(max=tokens - 1), key.clamp(max=tokens - 1)), device=device)
        yield pairs & (query < tokens) & (key < tokens)


def _window(window: int) -> MaskFunction:
    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    return seen


def _complete(row: Tensor, tokens: int, block_size: int) -> Tensor:
    """Tell which rows of blocks have all their queries: what others see is not called whole."""
    return (row + 1) * block_size <= tokens


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the counts (1, H, R) and the rising numbers (1, H, R, M) of blocks as the kernel reads them."""
    rows = blocks.shape[1]
    ordered = blocks.sort(-1).values[..., :rows]
    return (ordered < rows).sum(-1).int()[None], ordered.clamp(max=rows - 1).int().contiguous()[None]


def _turned(blocks: Tensor, widest: int) -> tuple[Tensor, Tensor]:
    """Return counts (1, H, R) and rising numbers (1, H, R, widest) of the rows of blocks that see a block of keys."""
    H, rows, places = blocks.shape
    column, order = blocks.flatten(1).sort(dim=-1, stable=True)  # by column, and in a column by row
    counts = torch.zeros(H, rows + 1, dtype=torch.int64, device=blocks.device)
    counts = counts.scatter_add(1, column, torch.ones_like(column))
    start = counts.cumsum(1) - counts
    place = torch.arange(rows * places, device=blocks.device) - start.gather(1, column)
    # One place more takes what is in no column.
    target = torch.where(column < rows, column * widest + place, rows * widest)
    turned = torch.zeros(H, rows * widest + 1, dtype=torch.int32, device=blocks.device)
    turned = turned.scatter(1, target, (order // places).int())
    return counts[:, :rows].int().contiguous()[None], turned[:, :-1].contiguous().view(1, H, rows, widest)
