"""The cache of a sliding window: as many rows as the window has tokens, the newest written over the oldest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vgpt.attention.cache import TokenCache
from vgpt.errors import VgptError


class RingCache(TokenCache):
    """Rows of the last `window` tokens; the token at position p lies in row p % window.

    A softmax does not care for the order of its keys, so a step over a full ring writes one row, moves nothing and
    reads `dense` as it lies. Only pieces of several tokens get their rows sorted by position. Until the window is full,
    and forever where it is no shorter than `max_tokens`, this is a plain `TokenCache`.

    Args:
        batch: sequences.
        max_tokens: longest sequence.
        window: tokens that a query sees, itself included.
        parts: (heads, width) of each kind of row, such as keys and values.
        dtype: type of the stored numbers.
        device: where they live.
    """

    def __init__(
        self,
        batch: int,
        max_tokens: int,
        window: int,
        parts: Sequence[tuple[int, int]],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(batch, min(max_tokens, window), parts, dtype=dtype, device=device)
        self.max_tokens, self.window = max_tokens, window
        self._longest = 0  # since the last reset: what was written over before a rewinding stays lost

    @property
    def live(self) -> int:
        """Rows in use."""
        return min(self.length, self.capacity)

    @property
    def last(self) -> int:
        """Row of the newest token."""
        return (self.length - 1) % self.capacity

    def append(self, *rows: Tensor) -> list[Tensor]:
        """Store rows (B, heads, T, width) and return the rows that matter to the T tokens, by position.

        Those are the rows that the first of the tokens may see, and the T new ones.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        end = self._grown(rows[0].shape[2])
        if end <= self.capacity:
            seen = super().append(*rows)
        else:
            seen = [torch.cat((old, new.to(old.dtype)), 2) for old, new in zip(self._sorted(), rows, strict=True)]
            self._write(rows, end)
        self.length, self._longest = end, max(end, self._longest)
        return seen

    def step(self, *rows: Tensor) -> None:
        """Store the rows (B, heads, 1, width) of one token, to be read from `dense`, unsorted.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        end = self._grown(1)
        if end <= self.capacity:
            super().append(*rows)
        else:
            self._write(rows, end)
        self.length, self._longest = end, max(end, self._longest)

    def stored(self) -> list[Tensor]:
        """Return the filled rows of each part."""
        return [part[:, :, : self.live] for part in self.dense]

    def rewind(self, length: int) -> None:
        """Go back to the first `length` tokens, if the token after them still finds all that its window reaches.

        Over a full ring that is one token back at most; to 0 it always works.
        """
        overwritten = self._longest > self.capacity
        if overwritten and 0 < length < self._longest - 1:
            raise VgptError(
                f"a window of {self.window} tokens after {self._longest} cannot go back to {length}: what the window "
                "reached there is written over",
                "Reset the cache, and read the tokens that should stay again.",
            )
        super().rewind(length)
        if length == 0:
            self._longest = 0

    def _grown(self, tokens: int) -> int:
        end = self.length + tokens
        if end > self.max_tokens:
            raise VgptError(
                f"the key/value cache is for {self.max_tokens} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        return end

    def _sorted(self) -> list[Tensor]:
        """Return the rows that the next token may see beside its own, oldest first."""
        count = min(self.length, self.window - 1)
        rows = torch.arange(self.length - count, self.length, device=self.dense[0].device) % self.capacity
        return [part.index_select(2, rows) for part in self.dense]

    def _write(self, rows: Sequence[Tensor], end: int) -> None:
        """Put the newest rows into their places."""
        if self.dense[0].shape[2] < self.capacity:
            self._spread(self.capacity)
        kept = min(rows[0].shape[2], self.capacity)
        places = torch.arange(end - kept, end, device=rows[0].device) % self.capacity
        for part, new in zip(self.dense, rows, strict=True):
            part.index_copy_(2, places, new[:, :, -kept:].to(part.dtype))
