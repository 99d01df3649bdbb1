"""Word problems: the product of all elements of a group that have come so far."""

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from math import log2
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task

_SOURCE = (
    "Merrill, Petty and Sabharwal 2024, The illusion of state in state-space models, arXiv 2404.08819, section 5; "
    "scored on the last tokens"
)


class WordProblem(Task):
    """Random elements of a group; at each the product of all up to it, the first one leftmost."""

    source = _SOURCE
    n_points: ClassVar[int]
    """the group permutes so many points"""
    even: ClassVar[bool] = False
    """whether only its even permutations belong to the group"""

    length: Length = 16
    """tokens of an instance in training"""
    test_lengths: tuple[Length, ...] = (32, 64)
    """lengths of the test beside that of training"""
    n_scored: Annotated[int, Field(ge=1)] = 8
    """last tokens that count"""

    @property
    def n_tokens(self) -> int:
        """One id per element; 0 is the identity."""
        return len(elements(self.n_points, self.even))

    def faults(self) -> list[str]:
        """What counts must be there."""
        if self.n_scored > self.length:
            return [f"n_scored = {self.n_scored}: more than length {self.length}"]
        return []

    def content_bits(self) -> float:
        """Every element."""
        return self.length * log2(self.n_tokens)

    def chance(self) -> float:
        """One of all elements."""
        return 1 / self.n_tokens

    def draw(self, draws: Draws) -> Drawn:
        """Elements and their running products."""
        table = _products(self.n_points, self.even)
        inputs = draws.integers(len(table), self.length)
        targets = inputs.copy()
        for t in range(1, self.length):
            targets[:, t] = table[targets[:, t - 1], inputs[:, t]]
        scored = np.zeros(inputs.shape, bool)
        scored[:, -self.n_scored :] = True
        return Drawn(inputs, targets, content=inputs, scored=scored)


@register_task("s3", summary="word problem of S3, the smallest group whose order of factors matters")
class S3(WordProblem):
    """Products of the six permutations of three points: a solvable group that is not commutative."""

    n_points = 3
    control = Control(attn="gru", n_embd=32, short_conv=False, steps=400)


@register_task("a5", summary="word problem of A5, which is not solvable: no circuit of constant depth is known")
class A5(WordProblem):
    """Products of the sixty even permutations of five points.

    The word problem of a group that is not solvable is complete for NC1 (Barrington 1989); models of a fixed number of
    layers without a true recurrence are thought not to solve it at all lengths.
    """

    n_points, even = 5, True
    # Sixty times sixty products have to be learned: from longer words the control learned nothing in this time.
    control = Control(attn="gru", n_embd=128, short_conv=False, steps=3000)

    length: Length = 6
    """tokens of an instance in training"""
    test_lengths: tuple[Length, ...] = (12, 24)
    """lengths of the test beside that of training"""
    n_scored: Annotated[int, Field(ge=1)] = 4
    """last tokens that count"""


@cache
def elements(n_points: int, even: bool) -> Sequence[tuple[int, ...]]:
    """Return the permutations of range(n_points) in lexicographic order; only the even ones if so asked."""
    return [p for p in permutations(range(n_points)) if not even or _inversions(p) % 2 == 0]


def _inversions(permutation: tuple[int, ...]) -> int:
    n = len(permutation)
    return sum(permutation[i] > permutation[j] for i in range(n) for j in range(i + 1, n))


@cache
def _products(n_points: int, even: bool) -> np.ndarray:
    """Return the number of p q, the permutation that takes i to p[q[i]], by the numbers of p and q."""
    group = elements(n_points, even)
    number = {p: i for i, p in enumerate(group)}
    return np.array([[number[tuple(p[i] for i in q)] for q in group] for p in group])
