"""Recall among noise: pairs of keys and values that come again and again, with tokens between that mean nothing."""

from math import log2
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import IGNORE, Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task

_COUNTED = 32
Share = Annotated[float, Field(ge=0, le=1)]


@register_task("noisy-recall", summary="recall among noise: which value came with this key")
class NoisyRecall(Task):
    """`k v` pairs, whose keys come again with the same value, and pairs of noise in random places among them.

    A key is asked wherever it has come before; the last pair's always has. Ids: keys, values, noise.
    """

    source = (
        "Poli et al. 2024, Mechanistic design and scaling of hybrid architectures, arXiv 2403.17844 (noisy in-context "
        "recall); here the amount of noise is the same in every instance"
    )
    control = Control(n_embd=32)
    axes: ClassVar[dict[str, str]] = {"test_lengths": "length", "test_noise": "noise"}

    length: Length = 32
    """tokens of an instance in training; even, at least 4"""
    test_lengths: tuple[Length, ...] = (64,)
    """lengths of the test beside that of training"""
    n_keys: Annotated[int, Field(ge=2, le=1 << 14)] = 8
    """keys that there are"""
    n_values: Annotated[int, Field(ge=2, le=1 << 14)] = 16
    """values that there are"""
    n_noise: Annotated[int, Field(ge=1, le=1 << 14)] = 16
    """token ids that are noise"""
    noise: Share = 0.4
    """share of noise among what comes before the last pair"""
    test_noise: tuple[Share, ...] = (0.8,)
    """shares of noise of the test beside that of training"""

    @property
    def n_tokens(self) -> int:
        """Keys, values, noise."""
        return self.n_keys + self.n_values + self.n_noise

    @property
    def n_events(self) -> int:
        """Pairs of key and value in an instance; at least two."""
        pairs = self.length // 2
        return pairs - round(self.noise * (pairs - 2))

    def faults(self) -> list[str]:
        """A pair that comes twice takes four tokens."""
        if self.length % 2 or self.length < 4:
            return [f"length = {self.length}: must be even, and at least 4"]
        return []

    def content_bits(self) -> float:
        """Keys in their order, the last of which comes again, and a value for each that there is.

        Exact for few pairs, and a lower bound for many.
        """
        orders = [1]  # of the keys so far, by how many are different
        for _ in range(min(self.n_events - 1, _COUNTED)):
            again = [count * d for d, count in enumerate([*orders, 0])]
            new = [0, *(count * max(0, self.n_keys - d) for d, count in enumerate(orders))]
            orders = [sum(both) for both in zip(again, new, strict=True)]
        return log2(sum(count * d * self.n_values**d for d, count in enumerate(orders)))

    def chance(self) -> float:
        """One of all values."""
        return 1 / self.n_values

    def draw(self, draws: Draws) -> Drawn:
        """Pairs of one map from keys to values, at some of the places for two tokens; noise at the others."""
        N, n, n_places = len(draws), self.n_events, self.length // 2
        values = draws.integers(self.n_values, self.n_keys)
        keys = draws.integers(self.n_keys, n)
        again = draws.integers(n - 1, 1)
        keys[:, -1:] = np.take_along_axis(keys, again, axis=1)
        places = np.sort(draws.distinct(n_places - 1, n - 1), axis=1)
        places = np.concatenate([places, np.full((N, 1), n_places - 1)], axis=1)
        first_noise = self.n_keys + self.n_values
        inputs = first_noise + draws.integers(self.n_noise, n_places, 2)
        targets = np.full_like(inputs, IGNORE)
        answers = np.take_along_axis(values, keys, axis=1)
        pairs = np.stack([keys, self.n_keys + answers], axis=2)
        np.put_along_axis(inputs, places[:, :, None], pairs, axis=1)
        known = np.zeros((N, n), bool)
        seen, rows = np.zeros((N, self.n_keys), bool), np.arange(N)
        for i in range(n):
            known[:, i] = seen[rows, keys[:, i]]
            seen[rows, keys[:, i]] = True
        asked = np.where(known, self.n_keys + answers, IGNORE)
        np.put_along_axis(targets[:, :, 0], places, asked, axis=1)
        return Drawn(inputs.reshape(N, -1), targets.reshape(N, -1), content=pairs.reshape(N, -1))
