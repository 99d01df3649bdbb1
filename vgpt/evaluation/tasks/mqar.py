"""Multi-query associative recall: pairs of keys and values, then keys whose values are asked."""

from math import log2, perm
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task


@register_task("mqar", summary="multi-query associative recall: which value came with this key")
class MQAR(Task):
    """`k v k v ... ` for `n_pairs` pairs, then every key once more, at the end of gaps that follow a power law.

    Keys are ids 1 to vocab_size / 2 - 1, values the upper half. The rest is filled with random ids, so that a filling
    may be a key that is not asked: only the second place of a pair's key has a target.
    """

    source = "Arora et al. 2023, Zoology, arXiv 2312.04927, as its code draws it; here the filling follows the seed too"
    axes: ClassVar[dict[str, str]] = {"test_lengths": "length", "test_pairs": "n_pairs"}

    length: Length = 32
    """tokens of an instance in training; even, at least 4 n_pairs"""
    test_lengths: tuple[Length, ...] = (64,)
    """lengths of the test beside that of training"""
    vocab_size: Annotated[int, Field(ge=8, le=1 << 17, multiple_of=2)] = 128
    """token ids: the lower half are keys, the upper half values"""
    n_pairs: Annotated[int, Field(ge=1)] = 4
    """pairs of key and value in an instance, K"""
    test_pairs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """numbers of pairs of the test beside that of training"""
    power: Annotated[float, Field(gt=0, le=10)] = 0.01
    """exponent a of the gap's density a s^(a-1); 1: uniform, near 0: mostly short"""

    @property
    def n_tokens(self) -> int:
        """Keys, values, and id 0, which only fills."""
        return self.vocab_size

    def faults(self) -> list[str]:
        """A pair takes four tokens, and no key comes twice."""
        half, faults = self.vocab_size // 2, list[str]()
        if self.length % 2:
            faults.append(f"length = {self.length}: must be even")
        if 4 * self.n_pairs > self.length:
            faults.append(f"n_pairs = {self.n_pairs}: takes a length of at least {4 * self.n_pairs}, not {self.length}")
        if self.n_pairs > half - 1:
            faults.append(f"n_pairs = {self.n_pairs}: vocab_size {self.vocab_size} has only {half - 1} keys")
        return faults

    def content_bits(self) -> float:
        """Which keys, in which order, with which values."""
        half = self.vocab_size // 2
        return log2(perm(half - 1, self.n_pairs)) + self.n_pairs * log2(half)

    def chance(self) -> float:
        """One of all values; one of those in the instance is right at a rate of 1 / n_pairs."""
        return 2 / self.vocab_size

    def draw(self, draws: Draws) -> Drawn:
        """Pairs first, queries into slots of two tokens, then the filling."""
        K, half, start = self.n_pairs, self.vocab_size // 2, 2 * self.n_pairs
        keys = 1 + draws.distinct(half - 1, K)
        values = half + draws.integers(half, K)
        n_slots = (self.length - start) // 2
        slots = draws.weighted(np.arange(1, n_slots + 1) ** (self.power - 1), K)
        inputs = draws.integers(self.vocab_size, self.length)
        inputs[:, 0:start:2], inputs[:, 1:start:2] = keys, values
        targets = np.full_like(inputs, IGNORE)
        places = start + 2 * slots
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return Drawn(inputs, targets, content=inputs[:, :start])
