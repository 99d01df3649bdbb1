"""Steps of fixed shapes: one more token per sequence, at a position that only the device knows.

A CUDA graph records which kernels run on which memory, once, and replays them without Python. A step can be recorded
where nothing in it depends on how many tokens there are: it writes its row where a tensor says, attends to all rows of
its memory, and hides on the device those that hold nothing yet. The numbers are those of a step that knows its length.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from vgpt.attention.kernels.rope import rotary_tables

T = TypeVar("T")


class Place:
    """Where the next token of every sequence stands, and what follows from it, made once per step for all layers.

    Args:
        position: (1,) int64, on the device of the model.
        limit: positions are below this.
    """

    def __init__(self, position: Tensor, limit: int) -> None:
        self.position, self.limit = position, limit
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]  # of whoever chose the key

    def row(self, rows: int) -> Tensor:
        """Return the row (1,) of the token in memory for `rows` tokens; a new token goes where the oldest was."""
        if rows >= self.limit:
            return self.position
        return self.once(("row", rows), lambda: self.position % rows)

    def rotation(self, width: int, base: float) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (1, width / 2) of the position, as `rotary_tables` has them."""

        def look_up() -> tuple[Tensor, Tensor]:
            cos, sin = rotary_tables(0, self.limit, width, base, self.position.device)
            return cos.index_select(0, self.position), sin.index_select(0, self.position)

        return self.once(("rotation", width, base), look_up)

    def rotated(self, x: Tensor, base: float) -> Tensor:
        """Rotate (B, 1, heads, D) as `vgpt.attention.kernels.rope.apply_rotary` does, in few operations."""
        half = x.shape[-1] // 2

        def spread() -> tuple[Tensor, Tensor]:
            cos, sin = self.rotation(x.shape[-1], base)
            return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

        cos, sin = self.once(("spread", x.shape[-1], base), spread)
        return torch.addcmul(x * cos, x.roll(half, -1), sin).to(x.dtype)

    def bias(self, rows: int, slopes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what to add to the scores of `rows` rows, (1 or H, rows): -inf where there is no token yet.

        With slopes also ALiBi. In memory that has gone round, a row's distance counts backwards from the newest.
        """

        def make() -> Tensor:
            places = torch.arange(rows, device=self.position.device)
            empty = (places > self.position)[None]
            if slopes is None:
                return torch.zeros(1, rows, dtype=dtype, device=self.position.device).masked_fill_(empty, -torch.inf)
            distance = (self.position - places) % rows
            return (-slopes.to(dtype)[:, None] * distance).masked_fill_(empty, -torch.inf)

        return self.once(("bias", rows, slopes is not None, dtype), make)
