"""The cache of landmark attention: as many blocks as one row sees, each new block in the place of one that is done."""

import torch
from torch import Tensor

from vgpt.attention.cache import Cache
from vgpt.attention.sparse.config import SparseConfig
from vgpt.errors import VgptError


class LandmarkCache(Cache):
    """Keys and values of the globals, the landmarks of each head, and the window.

    Which block lies in which place is a matter of each head: `blocks` (H, places) holds its number, -1 where none is.
    With every new block row, one block of each head falls out of sight for good, and the new one takes its place.

    Args:
        config: the settings; their `random_mode` is "column".
        layer: index of the block of the model.
        batch: sequences.
        heads: H.
        max_tokens: longest sequence.
        width: D of keys and values.
        dtype: type of the stored numbers.
        device: where they live.
    """

    def __init__(
        self,
        config: SparseConfig,
        layer: int,
        batch: int,
        heads: int,
        max_tokens: int,
        width: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.config, self.layer, self.max_tokens = config, layer, max_tokens
        self.size = config.sparse_block_size
        self.capacity = min(max_tokens, config.span)
        # Zeros, because rows not yet filled take part in products, with weight zero, and must be finite.
        shape = (batch, heads, self.capacity, width)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.places = -(-self.capacity // self.size)
        self.blocks = torch.full((heads, self.places), -1, dtype=torch.int64)
        self._rows = torch.arange(self.capacity, device=device)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Store rows (B, H, T, D) of tokens of one block row: the caller cuts longer pieces at the rows' ends.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        start, end = self.length, self.length + keys.shape[2]
        if end > self.max_tokens:
            raise VgptError(
                f"the key/value cache is for {self.max_tokens} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        row, first = divmod(start, self.size)
        assert (end - 1) // self.size == row, "a piece that spans block rows"
        if first == 0:
            self._begin(row)
        own = (self.blocks == row).int().argmax(1)  # (H,): where the row's own block lies
        places = (own[:, None] * self.size + torch.arange(first, first + end - start)).to(self.keys.device)
        index = places[None, :, :, None].expand(len(keys), -1, -1, keys.shape[-1])
        self.keys.scatter_(2, index, keys.to(self.keys.dtype))
        self.values.scatter_(2, index, values.to(self.values.dtype))
        self.length = end

    def positions(self) -> Tensor:
        """Return the position of each stored row, (H, capacity); rows without a token are at -1."""
        blocks = self.blocks.to(self._rows.device).repeat_interleave(self.size, 1)[:, : self.capacity]
        found = blocks * self.size + self._rows % self.size
        return torch.where((blocks >= 0) & (found < self.length), found, -1)

    def stored(self) -> list[Tensor]:
        """Return what is in use: everything once the sequence is longer than the capacity."""
        live = min(self.length, self.capacity)
        return [self.keys[:, :, :live], self.values[:, :, :live]]

    def buffers(self) -> list[Tensor]:
        """Return keys and values."""
        return [self.keys, self.values]

    def rewind(self, length: int) -> None:
        """Go back to 0, or to where no block had yet been given up.

        Raises:
            VgptError: a block that was in sight there is gone.
        """
        if not 0 <= length <= self.length:
            raise VgptError(f"the key/value cache holds {self.length} tokens and cannot go back to {length}")
        if length and self.length > self.places * self.size:
            raise VgptError(
                f"landmark attention after {self.length} tokens cannot go back to {length}: blocks were given up",
                "Reset the cache, and read the tokens that should stay again.",
            )
        self.blocks[self.blocks * self.size >= length] = -1
        self.length = length

    def _begin(self, row: int) -> None:
        """Make a place for a new block row in every head."""
        if row < self.places:
            self.blocks[:, row] = row
            return
        heads = torch.arange(self.blocks.shape[0])
        config = self.config
        needed = (self.blocks < config.global_blocks) | (self.blocks > row - config.window_blocks)
        for link in config.links(torch.tensor(row), self.layer, heads):
            needed |= self.blocks == link[:, None]
        # Exactly one is left over in every head.
        self.blocks[heads, needed.int().argmin(1)] = row
