"""The blocks that each block row sees, as tables of numbers for gathering."""

import torch
from torch import Tensor

from vgpt.attention.kernels.tables import KeptTables
from vgpt.attention.sparse.config import SparseConfig

_tables = KeptTables()


def row_links(config: SparseConfig, layer: int, heads: int, rows: int, device: torch.device) -> Tensor:
    """Return what the block rows S .. rows - 1 see: (H, rows - S, S) numbers of blocks, the row's own last.

    Rows before S = g + w + r are left out: they see all blocks up to their own. Tables are kept per layer and device
    and grow by doubling.
    """
    if torch.compiler.is_compiling():
        return _drawn(config, layer, heads, rows, device)
    capacity = 1 << (rows - 1).bit_length()
    return _tables(_drawn, config, layer, heads, capacity, device)[:, : max(0, rows - config.seen_blocks)]


def tokens_of(blocks: Tensor, size: int) -> Tensor:
    """Return the positions (H, S * size) of the tokens of blocks (H, S)."""
    return (blocks[..., None] * size + torch.arange(size, device=blocks.device)).flatten(-2)


def _drawn(config: SparseConfig, layer: int, heads: int, rows: int, device: torch.device) -> Tensor:
    row = torch.arange(config.seen_blocks, max(rows, config.seen_blocks), device=device)
    head = torch.arange(heads, device=device)[:, None]
    first = [torch.full_like(row, block) for block in range(config.global_blocks)]
    window = [row - back for back in range(config.window_blocks - 1, -1, -1)]
    parts = (*first, *config.links(row, layer, head), *window)
    return torch.stack([part.expand(heads, len(row)) for part in parts], -1)
