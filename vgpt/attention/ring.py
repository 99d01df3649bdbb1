"""The cache of a sliding window: as many rows as the window has tokens, the newest written over the oldest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vgpt.attention.cache import TokenCache
from vgpt.attention.place import Place
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
        """Store rows (B, heads, T, width), one tensor per part, and return sorted rows that end with these T.

        Before them come all rows that the first of them may see.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        end = self._end(rows[0].shape[2])
        if end <= self.capacity:
            seen = super().append(*rows)
        else:
            seen = [
                torch.cat((*self._sorted(part), new.to(part.dtype)), 2)
                for part, new in zip(self.dense, rows, strict=True)
            ]
            self._write(rows, end)
        self._advance(end)
        return seen

    def step(self, *rows: Tensor) -> None:
        """Store the rows (B, heads, 1, width) of one token, to be read from `dense` as they lie.

        Raises:
            VgptError: the sequence grows longer than `max_tokens`.
        """
        end = self._end(1)
        if end <= self.capacity:
            super().append(*rows)
        else:
            self._write(rows, end)
        self._advance(end)

    def advance(self) -> None:
        """Count a token that `put` wrote."""
        self._advance(self._end(1))

    def stored(self) -> list[Tensor]:
        """Return the rows in use of each part."""
        return [part[:, :, : self.live] for part in self.dense]

    def rewind(self, length: int) -> None:
        """Go back to the first `length` tokens, where the next token still finds its whole window.

        From a full ring that is one token at most, or all of them.
        """
        lost = self._longest - self.capacity
        if 0 < length < self.length and max(0, length - self.window + 1) < lost:
            raise VgptError(
                f"the key/value cache keeps the last {self.capacity} of {self.length} tokens and cannot go back to "
                f"{length}: what its window reached is written over",
                "Reset it and read the tokens again.",
            )
        super().rewind(length)
        if length == 0:
            self._longest = 0

    def _row(self, place: Place) -> Tensor:
        return place.row(self.capacity)

    def _end(self, tokens: int) -> int:
        end = self.length + tokens
        if end > self.max_tokens:
            raise VgptError(
                f"the key/value cache serves sequences of {self.max_tokens} tokens and cannot take {end}",
                "Make the cache larger, or reset it.",
            )
        return end

    def _advance(self, end: int) -> None:
        self.length, self._longest = end, max(end, self._longest)

    def _sorted(self, part: Tensor) -> list[Tensor]:
        """Return views of the rows before the next token's in its window, in order of position."""
        count = min(self.length, self.window - 1)
        first = (self.length - count) % self.capacity
        wrapped = max(0, first + count - self.capacity)
        return [part[:, :, first : first + count - wrapped], part[:, :, :wrapped]] if count else []

    def _write(self, rows: Sequence[Tensor], end: int) -> None:
        """Write the last rows that fit, up to position `end`; the ring is full afterward."""
        if self.dense[0].shape[2] < self.capacity:
            self._spread(self.capacity)
        count = min(rows[0].shape[2], self.capacity)
        first = (end - count) % self.capacity
        wrapped = max(0, first + count - self.capacity)
        for part, new in zip(self.dense, rows, strict=True):
            fresh = new[:, :, new.shape[2] - count :]
            part[:, :, first : first + count - wrapped].copy_(fresh[:, :, : count - wrapped])
            if wrapped:
                part[:, :, :wrapped].copy_(fresh[:, :, count - wrapped :])
