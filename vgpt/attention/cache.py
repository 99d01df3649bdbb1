"""What a layer remembers while decoding. Each variant owns its kind of cache; sizes are measured, never declared."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

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

    @property
    def nbytes(self) -> int:
        """Bytes in use; equals the variant's analytic `cache_cost` times the batch."""
        return _size(self.stored())

    @property
    def reserved(self) -> int:
        """Bytes allocated."""
        return _size(self.buffers())


class TokenCache(Cache):
    """Rows kept for every token in buffers allocated once: a step writes in place and reads views, nothing is copied.

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
        self._parts = [
            torch.empty(batch, heads, max_tokens, width, dtype=dtype, device=device) for heads, width in parts
        ]

    def append(self, *rows: Tensor) -> list[Tensor]:
        """Store rows (B, heads, T, width), one tensor per part, and return views of all rows so far.

        Raises:
            VgptError: the cache is full.
        """
        start, end = self.length, self.length + rows[0].shape[2]
        if end > self.capacity:
            raise VgptError(
                f"the key/value cache holds {self.capacity} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        self.length = end
        live: list[Tensor] = []
        for part, new in zip(self._parts, rows, strict=True):
            part[:, :, start:end].copy_(new)
            live.append(part[:, :, :end])
        return live

    def stored(self) -> list[Tensor]:
        """Return the filled front of each buffer."""
        return [part[:, :, : self.length] for part in self._parts]

    def buffers(self) -> list[Tensor]:
        """Return the buffers, (B, heads, capacity, width) each."""
        return self._parts

    def rewind(self, length: int) -> None:
        """Drop the tokens after the first `length`; any shorter length is possible."""
        if not 0 <= length <= self.length:
            raise VgptError(f"the key/value cache holds {self.length} tokens and cannot go back to {length}")
        self.length = length
