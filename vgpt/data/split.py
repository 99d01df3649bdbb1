"""Which text trains and which validates: decided by the text alone, never by chance or by order.

By `documents`: the hash of a document says where it goes, so adding files moves no other document. By `tail`: the end
of every document validates, cut at a line end; that is the rule for a single book, and the split that published numbers
on such texts use.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vgpt.data.spool import Spool
from vgpt.errors import DataError
from vgpt.text.pieces import find_seam

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
    for piece, (offset, size, owner) in enumerate(
        zip(spool.offsets.tolist(), spool.sizes.tolist(), spool.owners.tolist(), strict=True)
    ):
        before = before if owner == document else 0
        document = owner
        total = int(spool.document_sizes[owner])
        keep = total - round(total * val_fraction)
        ends = piece == last or int(spool.owners[piece + 1]) != owner
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
                f"the text is too small to split: {spool.documents:,} document(s), {int(spool.sizes.sum()):,} bytes, "
                f"and with --val-fraction {val_fraction} none of it is left for {name}",
                f"Bring more text or change --val-fraction{way_out}.",
            )
