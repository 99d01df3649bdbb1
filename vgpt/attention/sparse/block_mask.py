"""The blocks of FlexAttention's kernel that block-sparse attention touches, from its links alone.

The kernel's blocks need not be those of the pattern: several of the pattern's make one of the kernel's, or the other
way round, or they overlap. Where the kernel's divide the pattern's, only the diagonal is seen in part.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.kernels.block_masks import MaskFunction, assemble
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links


def sparse_mask(
    config: SparseConfig, layer: int, heads: int, tokens: int, block_size: int, device: torch.device
) -> BlockMask:
    """Return who sees whom in a sequence, in every head of a layer.

    Time is O(blocks * links). So is memory, but for the lists of who sees a block of keys, whose widest decides: a
    global block is seen by all, which makes 4 bytes for every pair of blocks and head.
    """
    size, K = config.sparse_block_size, block_size
    rows = -(-tokens // K)
    table = _seen_blocks(config, layer, heads, -(-tokens // size), device)  # (H, N, S)
    N = table.shape[1]

    # Candidates (H, R, c, S, e): c rows of the pattern in a row of the kernel's, S blocks of each, e of the kernel's in
    # each of those; with the pairs that they share.
    row = torch.arange(rows, device=device)
    mine = (row * K // size)[:, None] + torch.arange((K - 1) // size + 1 + (K % size > 0), device=device)  # (R, c)
    queries = _overlap(row[:, None] * K, K, mine * size, size, tokens)
    links = table[:, mine.clamp(max=N - 1)]
    theirs = (links * size // K)[..., None] + torch.arange((size - 1) // K + 1 + (size % K > 0), device=device)
    keys = _overlap(theirs * K, K, links[..., None] * size, size, tokens)
    pairs = queries[..., None, None] * keys * (links < N)[..., None]
    own = row[:, None, None, None]
    # Only earlier blocks of the kernel: of these, causality hides nothing.
    blocks = torch.where((pairs > 0) & (theirs < own), theirs, rows).flatten(2)
    blocks, order = blocks.sort(-1)
    pairs = pairs.flatten(2).gather(-1, order)

    # Blocks that several candidates touch are one block with all their pairs.
    first = torch.ones_like(blocks, dtype=torch.bool)
    first[..., 1:] = blocks[..., 1:] != blocks[..., :-1]
    run = first.cumsum(-1) - 1
    total = torch.zeros_like(pairs).scatter_add(-1, run, pairs).gather(-1, run)
    blocks = blocks.masked_fill(~first, rows)
    # The last row may lack queries, and then has too few pairs to count as whole.
    full = blocks.masked_fill(total < K * K, rows)
    diagonal = row.expand(heads, rows)[..., None]
    partial = torch.cat((blocks.masked_fill(total == K * K, rows), diagonal), -1)
    return assemble(partial, full, tokens, K, _seen(config, table), rows)


def _seen_blocks(config: SparseConfig, layer: int, heads: int, rows: int, device: torch.device) -> Tensor:
    """Return the blocks that each row of the pattern sees, (H, N, S); N = none."""
    S = config.seen_blocks
    number = torch.arange(S, device=device)
    early = torch.arange(min(S, rows), device=device)[:, None]
    everything = torch.where(number <= early, number, rows).expand(heads, -1, -1)
    return torch.cat((everything, row_links(config, layer, heads, rows, device)), 1) if rows > S else everything


def _overlap(a: Tensor, length: int, b: Tensor, other: int, end: int) -> Tensor:
    """Return how many of the places before `end` lie in both [a, a + length) and [b, b + other)."""
    return (torch.minimum(a + length, b + other).clamp(max=end) - torch.maximum(a, b)).clamp(min=0)


def _seen(config: SparseConfig, table: Tensor) -> MaskFunction:
    """Return the pattern as a function that looks links up: drawing them anew is long code in a kernel.

    What differs between layers is in a tensor, so that they share their compiled code.
    """
    size, early = config.sparse_block_size, config.seen_blocks
    globals_, window, count = config.global_blocks, config.window_blocks, config.random_blocks
    rows = table.shape[1]
    # One index alone: torch 2.10 takes some of several for numbers that it would have to know.
    links = table[..., globals_ : globals_ + count].int().flatten()

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row, block = query // size, key // size
        near = (row < early) | (block < globals_) | (block > row - window)
        first = (head * rows + row) * count
        for i in range(count):
            near = near | (links[first + i] == block)
        return (key <= query) & near

    return seen
