"""Induction: a random segment comes twice; what followed a token the first time follows it again."""

from math import log2, perm
from typing import Annotated

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task


@register_task("induction", summary="a random segment repeated: what came after this token the last time")
class Induction(Task):
    """A segment of `n_segment` different tokens stands at two random places, with random tokens around it.

    The filling has no token of the segment, so that each token of the second copy but the last has exactly one right
    continuation. Places are random, since at a fixed distance a model could count instead of looking for the token.
    """

    source = (
        "Olsson et al. 2022, In-context learning and induction heads, arXiv 2209.11895 (repeated random tokens); "
        "here at random places, with distinct tokens"
    )
    control = Control(n_embd=32, steps=400)

    length: Length = 32
    """tokens of an instance in training; at least 2 n_segment"""
    test_lengths: tuple[Length, ...] = (64, 128)
    """lengths of the test beside that of training; what is longer has more filling"""
    vocab_size: Annotated[int, Field(ge=4, le=1 << 14)] = 32
    """token ids"""
    n_segment: Annotated[int, Field(ge=2)] = 8
    """tokens of the segment"""

    @property
    def n_tokens(self) -> int:
        """All ids may be part of the segment, and all may be filling."""
        return self.vocab_size

    def faults(self) -> list[str]:
        """Two copies must fit, and something must be left to fill with."""
        S, faults = self.n_segment, list[str]()
        if self.length < 2 * S:
            faults.append(f"n_segment = {S}: takes a length of at least {2 * S}, not {self.length}")
        if self.vocab_size <= S:
            faults.append(f"n_segment = {S}: must be below vocab_size {self.vocab_size}")
        return faults

    def content_bits(self) -> float:
        """Which tokens, in which order."""
        return log2(perm(self.vocab_size, self.n_segment))

    def chance(self) -> float:
        """One of all tokens."""
        return 1 / self.vocab_size

    def draw(self, draws: Draws) -> Drawn:
        """Every token of the vocabulary in random order: the first are the segment, the others fill."""
        S, V, free = self.n_segment, self.vocab_size, self.length - 2 * self.n_segment
        tokens = draws.distinct(V, V)
        filling = S + draws.integers(V - S, self.length)
        inputs = np.take_along_axis(tokens, filling, axis=1)
        targets = np.full_like(inputs, IGNORE)
        # Two of free + 2 places, in order, are the free tokens before each copy: every pair of places equally often.
        first, second = np.sort(draws.distinct(free + 2, 2), axis=1).T
        second = second - 1 + S
        for start in (first, second):
            np.put_along_axis(inputs, start[:, None] + np.arange(S), tokens[:, :S], axis=1)
        np.put_along_axis(targets, second[:, None] + np.arange(S - 1), tokens[:, 1:S], axis=1)
        return Drawn(inputs, targets, content=tokens[:, :S])
