"""Losses of a trained model broken down by the tokens they are of, window by window: what `evaluations.json` holds.

`vgpt eval` writes the file into the directory of a finished run; see `vgpt.tracking.owned_file`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.tracking.owned_file import DamagedError, Owner, damaged_if_malformed, read_owned, write_owned
from vgpt.tracking.schema import Metric

# Commands that only look whether there is such a file are spared the import.
if TYPE_CHECKING:
    import numpy as np

EVALUATIONS_FILE = "evaluations.json"
_KEY = "breakdowns"
POSITIONS, RECALL, LENGTHS, REACH, TEXT = "positions", "recall", "lengths", "long_positions", "text"
KINDS = (POSITIONS, RECALL, LENGTHS, REACH, TEXT)
REPEATED, OTHER = "repeated", "other"
"""Parts of `RECALL`: tokens that end a bigram which stood in the window before, and all others."""


@dataclass(frozen=True)
class Part:
    """Tokens of one kind, window by window.

    Attributes:
        name: what kind: `5-8` tokens of context, `repeated`, windows of `512` tokens.
        at: where it stands on its axis: its last position, its length; 0 where there is no axis.
        losses: mean nats per token of each window, (windows,) float64; 0 in a window that has no such token.
        counts: such tokens in each window, (windows,) int64.
    """

    name: str
    at: int
    losses: "np.ndarray"
    counts: "np.ndarray"

    @cached_property
    def tokens(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    @cached_property
    def loss(self) -> float:
        """Mean nats per token; NaN where there is none."""
        return float((self.losses * self.counts).sum() / self.tokens) if self.tokens else math.nan

    @property
    def loss_se(self) -> float:
        """Standard error of `loss` over windows, as that of a ratio; NaN from one window.

        Source: Cochran 1977, "Sampling Techniques", section 2.11.
        """
        values = self.influence
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan

    @cached_property
    def influence(self) -> "np.ndarray":
        """What stands for each window where the noise of `loss` is computed, (windows,): its mean is `loss`.

        The linearized ratio: a window with twice the tokens moves `loss` twice as far. With equally many tokens in all
        windows these are the losses themselves.
        """
        return self.loss + (self.losses - self.loss) * self.counts * len(self.counts) / max(1, self.tokens)


def pooled(name: str, parts: Sequence[Part]) -> Part:
    """Return several parts of the same windows as one, at the place of the last."""
    import numpy as np

    counts = sum((part.counts for part in parts), np.zeros_like(parts[0].counts))
    sums = sum((part.losses * part.counts for part in parts), np.zeros_like(parts[0].losses))
    return Part(name, parts[-1].at, sums / np.maximum(counts, 1), counts)


@dataclass(frozen=True)
class Breakdown:
    """The losses of one model on fixed windows, broken down in one way.

    Attributes:
        kind: one of `KINDS`.
        step: optimizer steps of the evaluated checkpoint.
        windows: number, length and hash of the windows; only equal ones are of the same text.
        text: what was evaluated: `val`, or the name of a file.
        dtype: precision of matrix products.
        block_size: tokens that the model was trained on at once.
        made: when, milliseconds since 1970.
        parts: what it is broken down into.
        documents: the document in which each window begins; empty where that is not known.
        bytes: UTF-8 bytes that the tokens spell; 0 where nobody counted.
    """

    kind: str
    step: int
    windows: str
    text: str
    dtype: str
    block_size: int
    made: int
    parts: tuple[Part, ...]
    documents: tuple[int, ...] = ()
    bytes: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(part.tokens for part in self.parts)

    def part(self, name: str) -> Part | None:
        """Return a part by its name."""
        return next((part for part in self.parts if part.name == name), None)

    @cached_property
    def beyond(self) -> Part | None:
        """Of `REACH`, the tokens with more context than the model was trained on; None where there are none."""
        parts = [part for part in self.parts if part.at > self.block_size]
        return pooled("beyond", parts) if self.kind == REACH and parts else None

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per byte of text; NaN where bytes were not counted."""
        return pooled("", self.parts).loss * self.tokens / (math.log(2) * self.bytes) if self.bytes else math.nan

    def figures(self) -> list[tuple[Metric, float, int]]:
        """Return what metrics say of it: name, value, and what MLflow calls the step.

        That is the length of windows, or the last position of a span, for metrics that have one value for each.
        """
        found: list[tuple[Metric, float, int]] = []
        if self.kind == RECALL:
            repeated, other = self.part(REPEATED), self.part(OTHER)
            assert repeated is not None
            assert other is not None
            found += [(Metric.EVAL_REPEATED_LOSS, repeated.loss, self.step)]
            found += [(Metric.EVAL_REPEATED_LOSS_SE, repeated.loss_se, self.step)]
            found += [(Metric.EVAL_OTHER_LOSS, other.loss, self.step)]
            found += [(Metric.EVAL_OTHER_LOSS_SE, other.loss_se, self.step)]
            found += [(Metric.EVAL_REPEATED_SHARE, repeated.tokens / max(1, self.tokens), self.step)]
        if self.kind == POSITIONS:
            found += [(Metric.EVAL_POSITION_LOSS, part.loss, part.at) for part in self.parts]
        if self.kind == LENGTHS:
            found += [(Metric.EVAL_LENGTH_LOSS, part.loss, part.at) for part in self.parts]
            found += [(Metric.EVAL_LENGTH_LOSS_SE, part.loss_se, part.at) for part in self.parts]
        if self.kind == REACH and (beyond := self.beyond) is not None:
            found += [(Metric.EVAL_BEYOND_LOSS, beyond.loss, self.step)]
            found += [(Metric.EVAL_BEYOND_LOSS_SE, beyond.loss_se, self.step)]
        if self.kind == TEXT:
            whole = pooled("", self.parts)
            found += [(Metric.EVAL_TEXT_LOSS, whole.loss, self.step)]
            found += [(Metric.EVAL_TEXT_LOSS_SE, whole.loss_se, self.step)]
            found += [(Metric.EVAL_TEXT_BITS_PER_BYTE, self.bits_per_byte, self.step)]
        return [one for one in found if math.isfinite(one[1])]


def breakdowns_in(run_dir: Path, owner: Owner) -> tuple[Breakdown, ...]:
    """Return what a run directory holds; nothing where that is damaged, which `parse` would tell."""
    try:
        return parse((run_dir / EVALUATIONS_FILE).read_bytes(), owner)
    except (OSError, DamagedError):
        return ()


def metrics_of(found: Sequence[Breakdown]) -> dict[str, float]:
    """Return the last value of each of their metrics, as MLflow would: that of the longest windows or positions."""
    return {name: value for one in found for name, value, _ in one.figures()}


def save(run_dir: Path, owner: Owner, found: Sequence[Breakdown]) -> Path:
    """Write breakdowns into a run's file and return it; those of other kinds that are its record stay.

    Raises:
        OSError: it cannot be written.
    """
    kinds = {one.kind for one in found}
    kept = [one for one in breakdowns_in(run_dir, owner) if one.kind not in kinds]
    tables = [_as_table(one) for one in (*kept, *found)]
    return write_owned(run_dir / EVALUATIONS_FILE, owner, _KEY, tables)


def parse(content: bytes, owner: Owner) -> tuple[Breakdown, ...]:
    """Read the content of a file; nothing where it is of another run, or of an earlier state of this one.

    Raises:
        DamagedError: it is no such file, or was changed.
    """
    with damaged_if_malformed():
        return tuple(map(_of_table, read_owned(content, owner, _KEY)))


def _as_table(one: Breakdown) -> dict[str, Any]:
    parts = [
        {
            "name": part.name,
            "at": part.at,
            "counts": int(part.counts[0]) if len(set(part.counts.tolist())) == 1 else part.counts.tolist(),
            "losses": [float(f"{loss:.7g}") for loss in part.losses.tolist()],
        }
        for part in one.parts
    ]
    return vars(replace(one)) | {"parts": parts, "documents": list(one.documents)}


def _of_table(table: dict[str, Any]) -> Breakdown:
    parts = tuple(_part(part) for part in table["parts"])
    lengths = {len(part.losses) for part in parts}
    documents = tuple(map(int, table["documents"]))
    if len(lengths) != 1 or len(documents) not in (0, *lengths) or table["kind"] not in KINDS:
        raise ValueError("its parts are not of the same windows")
    found = Breakdown(
        kind=table["kind"],
        step=int(table["step"]),
        windows=str(table["windows"]),
        text=str(table["text"]),
        dtype=str(table["dtype"]),
        block_size=int(table["block_size"]),
        made=int(table["made"]),
        parts=parts,
        documents=documents,
        bytes=int(table["bytes"]),
    )
    if found.kind == RECALL and {part.name for part in parts} != {REPEATED, OTHER}:
        raise ValueError("recall has other parts")
    return found


def _part(table: dict[str, Any]) -> Part:
    import numpy as np

    losses, counts = np.asarray(table["losses"], dtype=np.float64), np.asarray(table["counts"], dtype=np.int64)
    if losses.ndim != 1 or not losses.size or not np.isfinite(losses).all() or (counts < 0).any():
        raise ValueError("a loss is no number")
    if counts.shape not in ((), losses.shape):
        raise ValueError("a count is missing")
    return Part(str(table["name"]), int(table["at"]), losses, np.broadcast_to(counts, losses.shape))
