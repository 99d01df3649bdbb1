"""What block-sparse attention remembers: all tokens, where any block may be drawn again; else what one row sees.

Both kinds hand out what a block row sees in the order of storage, the newest tokens last: a token sees all that is
stored before it, whichever blocks that is.
"""

import torch
from torch import Tensor

from vgpt.attention.cache import Cache, TokenCache
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links, tokens_of
from vgpt.errors import VgptError


class RowCache(TokenCache):
    """Keys and values of all tokens, from which a step copies those that its block row sees.

    Args:
        config: the settings.
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
        super().__init__(batch, max_tokens, [(heads, width)] * 2, dtype=dtype, device=device)
        # Nothing reads the memory as it lies, so that rows need not be moved together as they are in a `TokenCache`.
        self.dense = self.buffers()
        self.config, self.layer = config, layer
        self._starts = torch.arange(batch * heads, device=device).view(batch, heads, 1) * max_tokens

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Store the first tokens, keys and values (B, H, T, D).

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        self.append(keys, values)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, int]:
        """Store tokens of one block row; return the keys and values that it sees, contiguous, and their number.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        self.append(keys, values)
        row, last = divmod(self.length - 1, self.config.sparse_block_size)
        live = min(row, self.config.seen_blocks - 1) * self.config.sparse_block_size + last + 1
        places = (self._starts + self.positions()[:, :live]).flatten()
        seen = [part.flatten(0, 2).index_select(0, places).view(*part.shape[:2], live, -1) for part in self.dense]
        return seen[0], seen[1], live

    def positions(self) -> Tensor:
        """Return the positions (H or 1, tokens) of the blocks that the last token's row sees, in the order of `extend`.

        The last block counts whole, although its end may not be there yet.
        """
        size, most, device = self.config.sparse_block_size, self.config.seen_blocks, self._starts.device
        row = (self.length - 1) // size
        if row < most:
            return torch.arange((row + 1) * size, device=device)[None]
        return tokens_of(row_links(self.config, self.layer, self._starts.shape[1], row + 1, device)[:, -1], size)


class ColumnCache(Cache):
    """Keys and values of the globals, the random columns of each head, and the window: as many blocks as a row sees.

    With every new block row one block of each head falls out of sight for good. The row's own block lies in the last
    place; once all places are taken, a new row first moves the block that lies there to the place of the one given up.

    Attributes:
        blocks: (H, places) numbers of the blocks, which differ between heads.

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
        self.size, self.places = config.sparse_block_size, config.seen_blocks
        self.capacity = min(max_tokens, config.span)
        # Zeros, because rows not yet filled take part in products, with weight zero, and must be finite.
        shape = (batch, heads, self.capacity, width)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.blocks = torch.arange(self.places, device=device).repeat(heads, 1)
        self._row = 0

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Store what is still in sight after the first tokens, keys and values (B, H, T, D) of an empty cache.

        Raises:
            VgptError: the sequence is longer than `max_tokens`.
        """
        end = self._grown(keys.shape[2])
        self._row, last = divmod(end - 1, self.size)
        if self._row >= self.places:
            self.blocks = self._needed(self._row).clone()
        live = min(self._row, self.places - 1) * self.size + last + 1
        seen = tokens_of(self.blocks, self.size)[:, :live]
        heads = torch.arange(len(seen), device=keys.device)[:, None]
        self.keys[:, :, :live] = keys[:, heads, seen]
        self.values[:, :, :live] = values[:, heads, seen]
        self.length = end

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, int]:
        """Store tokens of one block row; return all keys and values, contiguous, and how many of them are seen.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        end = self._grown(keys.shape[2])
        row, first = divmod(self.length, self.size)
        if row != self._row:
            self._begin(row)
        start = min(row, self.places - 1) * self.size + first
        live = start + keys.shape[2]
        self.keys[:, :, start:live] = keys
        self.values[:, :, start:live] = values
        self.length = end
        return self.keys, self.values, live

    def positions(self) -> Tensor:
        """Return the position of each place for a token, (H, capacity); places not filled have some later one's."""
        return tokens_of(self.blocks, self.size)[:, : self.capacity]

    def stored(self) -> list[Tensor]:
        """Return what is in use: everything once the sequence is longer than the capacity."""
        live = min(self.length, self.capacity)
        return [self.keys[:, :, :live], self.values[:, :, :live]]

    def buffers(self) -> list[Tensor]:
        """Return keys and values."""
        return [self.keys, self.values]

    def rewind(self, length: int) -> None:
        """Go back to 0, to where no block had yet been given up, or to a place in the newest block.

        Raises:
            VgptError: a block that was in sight there is gone.
        """
        if not 0 <= length <= self.length:
            raise VgptError(f"the key/value cache holds {self.length} tokens and cannot go back to {length}")
        if self._row < self.places or length == 0:
            self.blocks = torch.arange(self.places, device=self.blocks.device).repeat(len(self.blocks), 1)
            self._row = max(0, length - 1) // self.size
        elif length < self._row * self.size:
            raise VgptError(
                f"attention by columns after {self.length} tokens cannot go back to {length}: blocks were given up",
                "Reset the cache, and read the tokens that should stay again.",
            )
        self.length = length

    def _grown(self, tokens: int) -> int:
        end = self.length + tokens
        if end > self.max_tokens:
            raise VgptError(
                f"the key/value cache is for {self.max_tokens} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        return end

    def _needed(self, row: int) -> Tensor:
        return row_links(self.config, self.layer, len(self.blocks), row + 1, self.blocks.device)[:, -1]

    def _begin(self, row: int) -> None:
        """Make the last place free for a new block row in every head."""
        self._row = row
        if row < self.places:
            return
        heads = torch.arange(len(self.blocks), device=self.blocks.device)
        kept = (self.blocks[:, :, None] == self._needed(row)[:, None, :]).any(-1)
        given_up = kept.int().argmin(1)  # exactly one in every head
        for part in self.buffers():
            by_block = part.unflatten(2, (self.places, self.size))
            by_block[:, heads, given_up] = by_block[:, :, -1].clone()
        self.blocks[heads, given_up] = self.blocks[:, -1].clone()
        self.blocks[:, -1] = row
