"""Batches as a pure function of (seed, step): the same for every attention, every machine and every number of workers.

An epoch reads the split in non-overlapping windows of `block_size` tokens, in an order drawn anew for each epoch. The
windows of an epoch start at a *phase*, which runs through all its values in a seeded order, epoch by epoch, so that the
borders of windows fall elsewhere each time and no token is left out for good (a single epoch leaves out fewer than
2 * block_size tokens, at the two ends).

Orders are keyed permutations of range(n) that need no memory: any element on its own, in constant time. They are a
Feistel network over the digits of a mixed-radix number (Black and Rogaway, 2002): an index is split into two digits,
each round adds a keyed hash of one digit to the other, and an index that leaves range(n) is sent through again.
Shuffling ten million windows costs nothing, and resuming at any step needs nothing but the step.
"""

import hashlib
from math import isqrt

import numpy as np

from vgpt.errors import DataError

_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def derive_keys(*parts: int | str, count: int = _ROUNDS) -> np.ndarray:
    """Return `count` 64-bit keys that depend on every part: the same on every machine and in every version of numpy."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8 * count).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def permute(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Map indices of range(n) through the permutation that `keys` (from `derive_keys`) select.

    Args:
        indices: integers in [0, n), any shape.
        n: size of the permuted range, at least 1.
        keys: one 64-bit key per round; an even number of them.
    """
    left_size = isqrt(n - 1) + 1
    right_size = -(-n // left_size)
    values = np.array(indices, dtype=np.uint64).reshape(-1)
    outside = np.arange(values.size)
    while outside.size:
        moved = _feistel(values[outside], np.uint64(left_size), np.uint64(right_size), keys)
        values[outside] = moved
        outside = outside[moved >= np.uint64(n)]
    return values.astype(np.int64).reshape(np.shape(indices))


def _feistel(values: np.ndarray, left_size: np.uint64, right_size: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = values // right_size, values % right_size
    for key_left, key_right in zip(keys[::2], keys[1::2], strict=True):
        left = (left + hash64(right, key_left) % left_size) % left_size
        right = (right + hash64(left, key_right) % right_size) % right_size
    return left * right_size + right


def hash64(values: np.ndarray, key: np.uint64 | np.ndarray) -> np.ndarray:
    """Mix 64 bits (the finalizer of splitmix64); arrays wrap around silently, as wanted."""
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))


class BatchSource:
    """Batches of one split.

    Args:
        tokens: 1-D ids, usually a memory map.
        block_size: T, tokens a model sees at once.
        batch_size: B, rows of one micro batch on one worker.
        seed: decides the order; nothing else does.

    Raises:
        DataError: the split is shorter than one window and its target.
    """

    def __init__(self, tokens: np.ndarray, block_size: int, batch_size: int, seed: int) -> None:
        _require_length(tokens, block_size)
        self.tokens, self.block_size, self.batch_size, self.seed = tokens, block_size, batch_size, seed
        usable = len(tokens) - 1
        fitting = usable // block_size
        self.windows_per_epoch = fitting if fitting < 3 else fitting - 1
        """windows in an epoch; one fewer than would fit, so that the phase can take every value"""
        self._phases = usable - self.windows_per_epoch * block_size + 1
        self._view = np.lib.stride_tricks.sliding_window_view(tokens, block_size + 1)
        self._keys: dict[int, np.ndarray] = {}

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """Return the first token of each row; rows are counted from the start of training."""
        epochs, places = np.divmod(np.asarray(rows, dtype=np.int64), self.windows_per_epoch)
        starts = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            windows = permute(places[chosen], self.windows_per_epoch, self._epoch_keys(epoch))
            starts[chosen] = self.phase(epoch) + windows * self.block_size
        return starts

    def phase(self, epoch: int) -> int:
        """Return where the windows of an epoch begin."""
        keys = derive_keys("phase", self.seed)
        return int(permute(np.array([epoch % self._phases]), self._phases, keys)[0])

    def batch(
        self, step: int, *, micro_step: int = 0, grad_accum: int = 1, rank: int = 0, world_size: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets, each int64 (B, T), targets one token ahead.

        The global batch of a step has grad_accum * world_size * B rows in an order of its own; micro step m of rank r
        takes the (m * world_size + r)-th slice of B rows. Any division of the same global batch yields the same rows.
        """
        slices = grad_accum * world_size
        first = (step * slices + micro_step * world_size + rank) * self.batch_size
        rows = self._view[self.starts(np.arange(first, first + self.batch_size))]
        return rows[:, :-1].astype(np.int64, order="C"), rows[:, 1:].astype(np.int64, order="C")

    def digest(self, step: int, *, grad_accum: int = 1, world_size: int = 1) -> str:
        """Return 16 hexadecimal digits of the SHA-256 over the ids of the global batch (as uint32, row by row)."""
        size = grad_accum * world_size * self.batch_size
        rows = self._view[self.starts(np.arange(step * size, (step + 1) * size))]
        return hashlib.sha256(rows.astype("<u4").tobytes()).hexdigest()[:16]

    def _epoch_keys(self, epoch: int) -> np.ndarray:
        if epoch not in self._keys:
            self._keys = {epoch: derive_keys("order", self.seed, epoch)}
        return self._keys[epoch]


def evaluation_windows(tokens: np.ndarray, block_size: int, count: int) -> np.ndarray:
    """Return the starts (int64) of fixed windows: evenly spaced, non-overlapping, the same for every run.

    Args:
        tokens: the validation split.
        block_size: T.
        count: windows wanted; fewer are returned where fewer fit.

    Raises:
        DataError: the split is too short for one window, or `count` is below 1.
    """
    _require_length(tokens, block_size)
    if count < 1:
        raise DataError(f"cannot evaluate on {count} windows", "Ask for at least 1.")
    available = (len(tokens) - 1) // block_size
    chosen = min(count, available)
    return np.arange(chosen, dtype=np.int64) * available // chosen * block_size


def _require_length(tokens: np.ndarray, block_size: int) -> None:
    if len(tokens) < block_size + 1:
        raise DataError(
            f"a split of {len(tokens):,} tokens is too short for block_size {block_size:,}, which takes one more",
            f"Lower --block-size to {max(1, len(tokens) - 1)} or less, or prepare more text.",
        )
