"""Random numbers of many instances at once: each instance has a stream of its own, which depends on nothing beside it.

A stream is SplitMix64, a counter that is hashed (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA): number j of a stream needs no number before it, streams are drawn for whole arrays of instances,
and every machine and version of numpy gives the same ones.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from vgpt.data.batches import derive_keys, hash64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DENSE = 4
"""Below so many candidates for each one that is drawn, all are shuffled."""


def streams(parts: Sequence[int | str], indices: np.ndarray, attempt: int) -> np.ndarray:
    """Return the starts of the streams of some instances, (N,) uint64.

    Args:
        parts: what the instances have in common: task, seed, split.
        indices: which instances, (N,), not negative.
        attempt: how many streams of the same instances were rejected before.
    """
    first, second = derive_keys(*parts, count=2)
    again = np.array([attempt], np.uint64) * _GOLDEN  # arrays wrap around silently
    return hash64(hash64(indices.astype(np.uint64), first) + again, second)


def content_hash(content: np.ndarray) -> np.ndarray:
    """Return a hash of each row of integers, (N, n) -> (N,) uint64; it has no seed."""
    state = np.full(len(content), content.shape[1], np.uint64)
    for column in content.T:
        state = hash64(state * _GOLDEN, column.astype(np.uint64))
    return state


class Draws:
    """Random numbers of N instances; every method returns arrays of N rows and goes on where the last one stopped.

    Args:
        starts: one start of a stream per instance, (N,) uint64, from `streams`.
    """

    def __init__(self, starts: np.ndarray) -> None:
        self._starts, self._used = starts, 0

    def __len__(self) -> int:
        """Return N."""
        return len(self._starts)

    def words(self, *shape: int) -> np.ndarray:
        """Return uniform 64-bit words, (N, *shape) uint64."""
        count = prod(shape)
        counters = np.arange(self._used + 1, self._used + count + 1, dtype=np.uint64) * _GOLDEN
        self._used += count
        return hash64(np.broadcast_to(counters, (len(self), count)), self._starts[:, None]).reshape(-1, *shape)

    def integers(self, high: int | np.ndarray, *shape: int) -> np.ndarray:
        """Return uniform integers of [0, high), (N, *shape) int64.

        Args:
            high: above what is drawn, at least 1; an array is broadcast against (N, *shape).
            shape: of one instance's numbers.
        """
        # The remainder favors small numbers by less than high / 2^64.
        return (self.words(*shape) % np.asarray(high, np.uint64)).astype(np.int64)

    def uniform(self, *shape: int) -> np.ndarray:
        """Return uniform numbers of (0, 1), both ends excluded, (N, *shape) float64."""
        return ((self.words(*shape) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def distinct(self, high: int, count: int) -> np.ndarray:
        """Return `count` integers of [0, high) without replacement, in random order, (N, count) int64.

        Few of many are drawn by Floyd's method (Bentley 1987, "Programming pearls: a sample of brilliance") and then
        shuffled: that takes `count` words and as many rounds, however large `high` is.
        """
        if high <= _DENSE * count:
            return self.shuffled(np.broadcast_to(np.arange(high), (len(self), high)))[:, :count]
        chosen = np.empty((len(self), count), np.int64)
        for i in range(count):
            last = high - count + i
            number = self.integers(last + 1, 1)
            taken = (chosen[:, :i] == number).any(1)
            chosen[:, i] = np.where(taken, last, number[:, 0])
        return self.shuffled(chosen)

    def shuffled(self, values: np.ndarray) -> np.ndarray:
        """Return each row of values, (N, n), in an order of its own."""
        return np.take_along_axis(values, np.argsort(self.words(values.shape[1]), axis=1, kind="stable"), axis=1)

    def weighted(self, weights: np.ndarray, count: int) -> np.ndarray:
        """Return `count` places without replacement, one after the other in proportion to their weights, (N, count).

        The first `count` of n exponential clocks that ring at the rate of their weight are such a sample, in its order
        (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").

        Args:
            weights: of the n places, (n,), positive.
            count: how many to draw, at most n.
        """
        rings = -np.log(self.uniform(len(weights))) / weights
        return np.argsort(rings, axis=1, kind="stable")[:, :count]
