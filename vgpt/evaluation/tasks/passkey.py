"""Passkey: a number hidden in filling, at a depth and a length."""

from math import log2
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Batch, Control, Drawn, Length, Score, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task

Depth = Annotated[float, Field(ge=0, le=1)]
_KEY, _QUERY, _FIRST = 10, 11, 12
"""Ids: digits are themselves, then what announces the key, what asks for it, and the filling."""


@register_task("passkey", summary="passkey: a number hidden in filling, tested by depth and length")
class Passkey(Task):
    """`... KEY d d d d d ... QUERY` and the digits again, of which each asks for the next.

    A key counts as right if all its digits are, each given those before it. No key of the test occurs in training, at
    any depth or length.
    """

    source = (
        "Mohtashami and Jaggi 2023, Landmark attention, arXiv 2305.16300, section 4.2 (passkey retrieval); here with "
        "random tokens as filling"
    )
    control = Control(n_embd=32)
    axes: ClassVar[dict[str, str]] = {"test_lengths": "length", "test_depths": "depth"}

    length: Length = 64
    """tokens of an instance in training; at least 2 n_digits + 1"""
    test_lengths: tuple[Length, ...] = (128, 256)
    """lengths of the test beside that of training"""
    n_digits: Annotated[int, Field(ge=1, le=64)] = 5
    """digits of the key"""
    n_filling: Annotated[int, Field(ge=1, le=1 << 16)] = 16
    """token ids of the filling"""
    depth: Depth | None = None
    """where the key stands: 0 at the beginning, 1 just before it is asked, None anywhere"""
    test_depths: tuple[Depth, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """depths of the test beside that of training"""

    @property
    def n_tokens(self) -> int:
        """Ten digits, two marks, the filling."""
        return _FIRST + self.n_filling

    @property
    def n_free(self) -> int:
        """Tokens of filling in an instance."""
        return self.length - 2 * self.n_digits - 1

    def faults(self) -> list[str]:
        """The key must fit twice; its last digit is asked and never given."""
        if self.n_free < 0:
            return [f"length = {self.length}: {self.n_digits} digits take at least {2 * self.n_digits + 1} tokens"]
        return []

    def content_bits(self) -> float:
        """Every digit of the key."""
        return self.n_digits * log2(10)

    def chance(self) -> float:
        """One of all keys."""
        return 10.0**-self.n_digits

    def draw(self, draws: Draws) -> Drawn:
        """The key, where it stands, the filling."""
        n, N = self.n_digits, len(draws)
        digits = draws.integers(10, n)
        if self.depth is None:
            start = draws.integers(self.n_free + 1, 1)
        else:
            start = np.full((N, 1), round(self.depth * self.n_free))
        inputs = _FIRST + draws.integers(self.n_filling, self.length)
        targets = np.full_like(inputs, IGNORE)
        np.put_along_axis(inputs, start, _KEY, axis=1)
        np.put_along_axis(inputs, start + 1 + np.arange(n), digits, axis=1)
        inputs[:, -n], inputs[:, self.length - n + 1 :] = _QUERY, digits[:, :-1]
        targets[:, -n:] = digits
        return Drawn(inputs, targets, content=digits)

    def score(self, batch: Batch, said: np.ndarray) -> Score:
        """A key is right as a whole or wrong."""
        right = ((np.asarray(said) == batch.targets) | ~batch.scored).all(1)
        return Score(right.astype(np.int64), np.ones(len(right), np.int64))
