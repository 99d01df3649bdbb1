"""How much of the validation text stands in the training text: a loss on text that was trained on measures memory."""

from dataclasses import dataclass

import numpy as np

PIECE = 64
"""Tokens of a piece: shorter ones recur in any language, longer ones would miss texts that were cut otherwise."""
NOTABLE = 0.1
"""Share from which reports name the overlap; boilerplate such as licenses stays below it in most corpora."""

_MOST_PIECES = 8_192
_MOST_TOKENS = 1 << 27
_BLOCK = 1 << 22
_BASE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Overlap:
    """Pieces of validation text found in the training text, of those looked for; `complete` if all was read."""

    found: int
    pieces: int
    complete: bool = True

    @property
    def share(self) -> float:
        """Found pieces of all, 0 to 1."""
        return self.found / self.pieces if self.pieces else 0.0

    def __str__(self) -> str:
        part = "" if self.complete else " (in a sample of the training text)"
        return f"{self.share:.2%} of {self.pieces:,} pieces of {PIECE} tokens{part}"


def share_of(text: str) -> float:
    """Return the share that an `Overlap` written as text tells; 0 where it is none."""
    number = text.partition("%")[0]
    try:
        return float(number) / 100
    except ValueError:
        return 0.0


def find_overlap(val: np.ndarray, train: np.ndarray) -> Overlap:
    """Look for pieces of the validation text anywhere in the training text.

    Args:
        val: flat validation tokens; of more than 8,192 pieces that many are looked for, evenly spread.
        train: flat training tokens, perhaps mapped from a file; of more than 2^27 an even sample of blocks is read.
    """
    count = min(len(val) // PIECE, _MOST_PIECES)
    if not count:
        return Overlap(0, 0)
    starts = np.linspace(0, len(val) - PIECE, count).astype(np.int64)
    pieces = np.asarray(val)[starts[:, None] + np.arange(PIECE)]
    wanted = _rolling(pieces.ravel())[::PIECE]
    known = np.unique(wanted)
    present = np.zeros(len(known), dtype=bool)
    filter_ = np.zeros(1 << 20, dtype=bool)
    filter_[known >> np.uint64(44)] = True
    starts, complete = _blocks(len(train))
    for start in starts:
        hashes = _rolling(np.asarray(train[start : start + _BLOCK + PIECE - 1]))
        likely = hashes[filter_[hashes >> np.uint64(44)]]
        places = np.minimum(np.searchsorted(known, likely), len(known) - 1)
        present[places[known[places] == likely]] = True
    found = int(present[np.searchsorted(known, wanted)].sum())
    return Overlap(found, count, complete)


def _rolling(tokens: np.ndarray) -> np.ndarray:
    """Return the polynomial hash, modulo 2^64, of the `PIECE` tokens that begin at each place, by doubling."""
    # One more than the token, so that zeros count.
    hashes, power, width = tokens.astype(np.uint64) + np.uint64(1), _BASE, 1
    while width < PIECE:
        if len(hashes) <= width:
            return hashes[:0]
        hashes = hashes[:-width] * np.uint64(power) + hashes[width:]
        power, width = power * power % 2**64, 2 * width
    return _mixed(hashes)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Return hashes whose upper bits depend on all bits."""
    hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(29))


def _blocks(tokens: int) -> tuple[range | list[int], bool]:
    """Return where the blocks to read begin, and whether they are all there is."""
    if tokens <= _MOST_TOKENS:
        return range(0, tokens, _BLOCK), True
    return np.linspace(0, tokens - _BLOCK, _MOST_TOKENS // _BLOCK).astype(np.int64).tolist(), False
