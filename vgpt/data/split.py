"""Which text trains and which validates, and how much of the one stands in the other.

The text alone decides, never chance or order. By `documents`: the hash of a document says where it goes, so adding
files moves no other document. By `tail`: the end of every document validates, cut at a line end; that is the rule for a
single book, and the split that published numbers on such texts use.

A loss on text that was trained on measures memory, so the overlap of the two is looked for.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vgpt.data.spool import Spool
from vgpt.errors import DataError
from vgpt.formatting import counted
from vgpt.text.chunks import find_seam

FEWEST_DOCUMENTS = 20
_SEAM_SEARCH = 4096


@dataclass(frozen=True)
class Plan:
    """What to encode, in order: stretches of the spool, each of one document and one split.

    Arrays of equal length: `offsets` and `sizes` in the spool, `owners` (document), `validates`, and `ends`, true where
    an end-of-text token follows.
    """

    rule: Literal["documents", "tail"]
    offsets: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    validates: np.ndarray
    ends: np.ndarray


def plan_split(spool: Spool, rule: str, val_fraction: float) -> Plan:
    """Divide a spool.

    Args:
        spool: the documents.
        rule: `documents`, `tail`, or `auto`: by documents where there are at least 20 and their hashes come out near
            the wanted share of bytes (within a factor of three), otherwise by tails.
        val_fraction: share of the text for validation.

    Raises:
        DataError: one of the two splits would be empty.
    """
    chosen = _by_hash(spool, val_fraction)
    if rule == "auto":
        share = float(spool.document_sizes[chosen].sum() / max(1, spool.document_sizes.sum()))
        fits = val_fraction / 3 <= share <= min(3 * val_fraction, (1 + val_fraction) / 2)
        rule = "documents" if spool.documents >= FEWEST_DOCUMENTS and fits else "tail"
    if rule == "documents":
        ends = np.append(spool.owners[1:] != spool.owners[:-1], True)
        plan = Plan("documents", spool.offsets, spool.sizes, spool.owners, chosen[spool.owners], ends)
    else:
        plan = _tails(spool, val_fraction)
    _require_both(plan, spool, val_fraction)
    return plan


def _by_hash(spool: Spool, val_fraction: float) -> np.ndarray:
    numbers = np.ascontiguousarray(spool.digests[:, :8]).view("<u8").reshape(-1)
    return numbers < np.uint64(min(int(val_fraction * 2**64), 2**64 - 1))


def _tails(spool: Spool, val_fraction: float) -> Plan:
    rows: list[tuple[int, int, int, bool, bool]] = []
    last = len(spool.owners) - 1
    document, before = -1, 0
    for number, (offset, size, owner) in enumerate(
        zip(spool.offsets.tolist(), spool.sizes.tolist(), spool.owners.tolist(), strict=True)
    ):
        before = before if owner == document else 0
        document = owner
        total = int(spool.document_sizes[owner])
        keep = total - round(total * val_fraction)
        ends = number == last or int(spool.owners[number + 1]) != owner
        if before < keep < before + size:
            cut = _cut(spool.read(offset, size), keep - before)
            rows.append((offset, cut, owner, False, True))
            rows.append((offset + cut, size - cut, owner, True, ends))
        else:
            validates = before >= keep
            rows.append((offset, size, owner, validates, ends or before + size == keep))
        before += size
    table = np.array([row for row in rows if row[1]], dtype=np.int64).reshape(-1, 5)
    return Plan("tail", table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(bool), table[:, 4].astype(bool))


def _cut(text: str, wanted: int) -> int:
    """Return a cut near byte `wanted`, at a seam where there is one close before it."""
    characters = len(text.encode()[:wanted].decode(errors="ignore"))
    seam = find_seam(text, max(0, characters - _SEAM_SEARCH), characters) if characters else 0
    return len(text[:seam].encode())


def _require_both(plan: Plan, spool: Spool, val_fraction: float) -> None:
    way_out = ", or use --split tail" if plan.rule == "documents" else ""
    for name, chosen in (("validation", plan.validates), ("training", ~plan.validates)):
        if not chosen.any():
            raise DataError(
                f"the text is too small to split: {counted(spool.documents, 'document')}, "
                f"{int(spool.sizes.sum()):,} bytes, and with --val-fraction {val_fraction} "
                f"none of it is left for {name}",
                f"Bring more text or change --val-fraction{way_out}.",
            )


NGRAM = 64
"""Tokens of an n-gram: shorter ones recur in any language, longer ones would miss texts that were cut otherwise."""
NOTABLE = 0.1
"""Share from which reports name the overlap; boilerplate such as licenses stays below it in most corpora."""

_MOST_NGRAMS = 8_192
_MOST_TOKENS = 1 << 27
_BLOCK = 1 << 22
_BASE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Overlap:
    """N-grams of validation text found in the training text, of those looked for; `complete` if all was read."""

    found: int
    ngrams: int
    complete: bool = True

    @property
    def share(self) -> float:
        """Found n-grams of all, 0 to 1."""
        return self.found / self.ngrams if self.ngrams else 0.0

    def __str__(self) -> str:
        part = "" if self.complete else " (in a sample of the training text)"
        return f"{self.share:.2%} of {self.ngrams:,} n-grams of {NGRAM} tokens{part}"


def share_of(text: str) -> float:
    """Return the share that an `Overlap` written as text tells; 0 where it is none."""
    number = text.partition("%")[0]
    try:
        return float(number) / 100
    except ValueError:
        return 0.0


def find_overlap(val: np.ndarray, train: np.ndarray) -> Overlap:
    """Look for n-grams of the validation text anywhere in the training text.

    Args:
        val: flat validation tokens; of more than 8,192 n-grams that many are looked for, evenly spread.
        train: flat training tokens, perhaps mapped from a file; of more than 2^27 an even sample of blocks is read.
    """
    count = min(len(val) // NGRAM, _MOST_NGRAMS)
    if not count:
        return Overlap(0, 0)
    starts = np.linspace(0, len(val) - NGRAM, count).astype(np.int64)
    ngrams = np.asarray(val)[starts[:, None] + np.arange(NGRAM)]
    wanted = _rolling(ngrams.ravel())[::NGRAM]
    known = np.unique(wanted)
    present = np.zeros(len(known), dtype=bool)
    filter_ = np.zeros(1 << 20, dtype=bool)
    filter_[known >> np.uint64(44)] = True
    starts, complete = _blocks(len(train))
    for start in starts:
        hashes = _rolling(np.asarray(train[start : start + _BLOCK + NGRAM - 1]))
        likely = hashes[filter_[hashes >> np.uint64(44)]]
        places = np.minimum(np.searchsorted(known, likely), len(known) - 1)
        present[places[known[places] == likely]] = True
    found = int(present[np.searchsorted(known, wanted)].sum())
    return Overlap(found, count, complete)


def _rolling(tokens: np.ndarray) -> np.ndarray:
    """Return the polynomial hash, modulo 2^64, of the `NGRAM` tokens that begin at each place, by doubling."""
    # One more than the token, so that zeros count.
    hashes, power, width = tokens.astype(np.uint64) + np.uint64(1), _BASE, 1
    while width < NGRAM:
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
