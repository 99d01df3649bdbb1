"""What a layer remembers while decoding. Each variant owns its kind of cache; sizes are measured, never declared."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vgpt.attention.place import Place
from vgpt.errors import VgptError


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Cache(ABC):
    """The memory of one layer for a batch of sequences that advance together.

    Attributes:
        length: tokens absorbed so far; the next token has this position.
    """

    length: int = 0

    @abstractmethod
    def stored(self) -> list[Tensor]:
        """Return views of what is in use now."""

    @abstractmethod
    def buffers(self) -> list[Tensor]:
        """Return everything that is allocated."""

    def reset(self) -> None:
        """Forget all tokens and keep the memory."""
        self.rewind(0)

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Go back to the first `length` tokens.

        Raises:
            VgptError: this kind of cache no longer has them, or never had.
        """

    def settle(self, tokens: int) -> int:
        """Lay memory out for steps of fixed shapes that hold up to `tokens` tokens.

        Returns:
            A number that is the same as long as those steps find the same memory laid out in the same way.
        """
        return 0

    def advance(self) -> None:
        """Count one token that a step of fixed shapes writes by itself.

        Raises:
            VgptError: there is no place for it.
        """
        self.length += 1

    @property
    def nbytes(self) -> int:
        """Bytes in use; equals the variant's analytic `cache_cost` times the batch."""
        return _size(self.stored())

    @property
    def reserved(self) -> int:
        """Bytes allocated."""
        return _size(self.buffers())


PAGE = 64
"""Tokens by which the dense part of a `TokenCache` grows."""


class TokenCache(Cache):
    """Rows kept for every token in memory allocated once: a step writes in place and reads views.

    Batched products on CPUs copy their operands unless each matrix starts right behind the one before. The matrices of
    (sequence, head) therefore lie at a distance of `room` rows, the length rounded up to whole pages, not of the
    capacity; once per page they are moved apart.

    Attributes:
        dense: each part as (B, heads, room, width), contiguous; the rows from `length` on hold old finite numbers.

    Args:
        batch: sequences.
        max_tokens: capacity.
        parts: (heads, width) of each kind of row, such as keys and values.
        dtype: type of the stored numbers.
        device: where they live.
    """

    def __init__(
        self,
        batch: int,
        max_tokens: int,
        parts: Sequence[tuple[int, int]],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.capacity = max_tokens
        # Zeros, because spare rows take part in products, with weight zero, and must be finite.
        self._memory = [
            torch.zeros(batch, heads, max_tokens, width, dtype=dtype, device=device) for heads, width in parts
        ]
        self.dense = [part[:, :, :0] for part in self._memory]

    def append(self, *rows: Tensor) -> list[Tensor]:
        """Store rows (B, heads, T, width), one tensor per part, and return views of all rows so far.

        Raises:
            VgptError: the cache is full.
        """
        start, end = self.length, self._end(rows[0].shape[2])
        if end > self.dense[0].shape[2]:
            self._spread(min(self.capacity, -(-end // PAGE) * PAGE))
        self.length = end
        live: list[Tensor] = []
        for part, new in zip(self.dense, rows, strict=True):
            part[:, :, start:end].copy_(new)
            live.append(part[:, :, :end])
        return live

    def settle(self, tokens: int) -> int:
        """Make room for `tokens` tokens, or as many as there is memory for; returns the rows that there are then."""
        room = min(self.capacity, tokens)
        if room > self.dense[0].shape[2]:
            self._spread(room)
        return self.dense[0].shape[2]

    def advance(self) -> None:
        """Count a token that `put` wrote."""
        self.length = self._end(1)

    def put(self, place: Place, *rows: Tensor) -> None:
        """Write the rows (B, heads, 1, width) of the token at `place` into `dense`, and count nothing."""
        for part, new in zip(self.dense, rows, strict=True):
            part.index_copy_(2, self._row(place), new.to(part.dtype))

    def stored(self) -> list[Tensor]:
        """Return the filled front of each buffer."""
        return [part[:, :, : self.length] for part in self.dense]

    def buffers(self) -> list[Tensor]:
        """Return the memory, of (B, heads, capacity, width) numbers for each part, in the order of `dense`."""
        return self._memory

    def rewind(self, length: int) -> None:
        """Drop the tokens after the first `length`; any shorter length is possible."""
        if not 0 <= length <= self.length:
            raise VgptError(f"the key/value cache holds {self.length} tokens and cannot go back to {length}")
        self.length = length

    def _row(self, place: Place) -> Tensor:
        return place.position

    def _end(self, tokens: int) -> int:
        end = self.length + tokens
        if end > self.capacity:
            raise VgptError(
                f"the key/value cache holds {self.capacity} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        return end

    def _spread(self, room: int) -> None:
        for i, (memory, part) in enumerate(zip(self._memory, self.dense, strict=True)):
            rows = part[:, :, : self.length].clone()
            batch, heads, _, width = memory.shape
            self.dense[i] = memory.view(-1)[: batch * heads * room * width].view(batch, heads, room, width)
            self.dense[i][:, :, : self.length] = rows
