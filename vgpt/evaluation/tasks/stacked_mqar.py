"""Recall with key and value in one token, so that a single layer can answer."""

from math import log2, perm
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task


@register_task("stacked-mqar", summary="recall with key and value in one token: one layer suffices")
class StackedMQAR(Task):
    """`n_pairs` tokens that are a key and a value each, then every key once, alone, in random order among blanks.

    No layer has to join a key with the value behind it, so that one layer of attention, without a convolution, shows
    what its state holds. Ids: one per pair of key and value (key * n_values + value), then one per key, then the blank.
    """

    source = (
        "MQAR (Arora et al. 2023, Zoology, arXiv 2312.04927) with stacked inputs, as in that project's later code; "
        "here a token per pair stands for the two joined vectors, and values may repeat"
    )
    control = Control(n_layer=1, n_embd=32, short_conv=False, steps=400)
    axes: ClassVar[dict[str, str]] = {"test_lengths": "length", "test_pairs": "n_pairs"}

    length: Length = 16
    """tokens of an instance in training; at least 2 n_pairs"""
    test_lengths: tuple[Length, ...] = (32,)
    """lengths of the test beside that of training; what is longer has more blanks"""
    n_keys: Annotated[int, Field(ge=2, le=1024)] = 16
    """keys that there are"""
    n_values: Annotated[int, Field(ge=2, le=1024)] = 16
    """values that there are"""
    n_pairs: Annotated[int, Field(ge=1)] = 8
    """pairs of key and value in an instance"""
    test_pairs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """numbers of pairs of the test beside that of training"""

    @property
    def n_tokens(self) -> int:
        """Pairs, keys, and the blank; a value answers as its own number."""
        return self.n_keys * self.n_values + self.n_keys + 1

    def faults(self) -> list[str]:
        """A pair takes two tokens, and no key comes twice."""
        K, faults = self.n_pairs, list[str]()
        if self.length < 2 * K:
            faults.append(f"n_pairs = {K}: takes a length of at least {2 * K}, not {self.length}")
        if self.n_keys < K:
            faults.append(f"n_pairs = {K}: there are only {self.n_keys} keys")
        return faults

    def content_bits(self) -> float:
        """Which keys, in which order, with which values."""
        return log2(perm(self.n_keys, self.n_pairs)) + self.n_pairs * log2(self.n_values)

    def chance(self) -> float:
        """One of all values."""
        return 1 / self.n_values

    def draw(self, draws: Draws) -> Drawn:
        """Pairs first, then the keys at places of their own."""
        K = self.n_pairs
        keys, values = draws.distinct(self.n_keys, K), draws.integers(self.n_values, K)
        places = K + draws.distinct(self.length - K, K)
        inputs = np.full((len(draws), self.length), self.n_tokens - 1)
        targets = np.full_like(inputs, IGNORE)
        inputs[:, :K] = keys * self.n_values + values
        np.put_along_axis(inputs, places, self.n_keys * self.n_values + keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return Drawn(inputs, targets, content=inputs[:, :K])
