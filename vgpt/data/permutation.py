"""A keyed permutation of range(n) that needs no memory: any element on its own, in constant time.

A Feistel network over the digits of a mixed-radix number (Black and Rogaway, 2002): an index is split into two digits,
each round adds a keyed hash of one digit to the other, and an index that leaves range(n) is sent through again.
Shuffling ten million windows costs nothing, and resuming at any step needs nothing but the step.
"""

import hashlib
from math import isqrt

import numpy as np

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
        left = (left + _hash(right, key_left) % left_size) % left_size
        right = (right + _hash(left, key_right) % right_size) % right_size
    return left * right_size + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Mix 64 bits (the finalizer of splitmix64); arrays wrap around silently, as wanted."""
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
