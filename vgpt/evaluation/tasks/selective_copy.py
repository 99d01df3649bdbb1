"""Selective copying: the tokens that stand among blanks, in their order."""

from math import log2
from typing import Annotated

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task


@register_task("selective-copy", summary="copy the tokens that stand among blanks, in their order")
class SelectiveCopy(Task):
    """`n_copy` tokens at random places among blanks; then `n_copy` marks, each of which asks for the next of them.

    Distances differ from instance to instance, so that no fixed shift solves it. Without positions a layer has to count
    and another to compare: hence two mixers. Ids: 0 is the blank, the last one the mark, those between are copied.
    """

    source = (
        "Gu and Dao 2023, Mamba, arXiv 2312.00752, section 4.1.1 (vocabulary 16, 16 tokens among 4096); "
        "with one mark per answer as there"
    )
    control = Control(n_layer=3, n_embd=32)

    length: Length = 32
    """tokens of an instance in training, marks included; at least 2 n_copy"""
    test_lengths: tuple[Length, ...] = (64, 128)
    """lengths of the test beside that of training; what is longer has more blanks"""
    vocab_size: Annotated[int, Field(ge=4, le=1 << 17)] = 16
    """token ids: blank, tokens to copy, mark"""
    n_copy: Annotated[int, Field(ge=1)] = 8
    """tokens to copy"""

    @property
    def n_tokens(self) -> int:
        """Blank, tokens to copy, mark."""
        return self.vocab_size

    def faults(self) -> list[str]:
        """A token takes two places: its own and its mark's."""
        if 2 * self.n_copy > self.length:
            return [f"n_copy = {self.n_copy}: takes a length of at least {2 * self.n_copy}, not {self.length}"]
        return []

    def content_bits(self) -> float:
        """Which tokens, in which order."""
        return self.n_copy * log2(self.vocab_size - 2)

    def chance(self) -> float:
        """One of the tokens that may be copied."""
        return 1 / (self.vocab_size - 2)

    def draw(self, draws: Draws) -> Drawn:
        """Places in their order, then tokens."""
        n, start = self.n_copy, self.length - self.n_copy
        places = np.sort(draws.distinct(start, n), axis=1)
        tokens = 1 + draws.integers(self.vocab_size - 2, n)
        inputs = np.zeros((len(draws), self.length), np.int64)
        targets = np.full_like(inputs, IGNORE)
        np.put_along_axis(inputs, places, tokens, axis=1)
        inputs[:, start:], targets[:, start:] = self.vocab_size - 1, tokens
        return Drawn(inputs, targets, content=tokens)
