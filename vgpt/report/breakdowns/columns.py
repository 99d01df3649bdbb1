"""The columns of losses by kinds of tokens: repeated bigrams, beyond the training length, other lengths, a text."""

import math
from collections.abc import Callable

from vgpt.compare.breakdowns.collect import BEYOND, RowPart
from vgpt.formatting import format_change, format_percent
from vgpt.report.column import Column, RowContext, Value
from vgpt.tracking.breakdowns.record import LENGTHS, OTHER, REACH, RECALL, REPEATED, TEXT

_ENDS = {"delta": "", "low": " 95% low", "high": " 95% high"}


def _part(at: RowContext, kind: str, name: str) -> RowPart | None:
    found = at.comparison.breakdowns.get(kind)
    return found.rows[at.row.label].part(name) if found else None


def _own(kind: str, name: str, figure: str) -> Callable[[RowContext], Value]:
    return lambda at: None if (part := _part(at, kind, name)) is None else getattr(part, figure)


def _change(kind: str, name: str, figure: str) -> Callable[[RowContext], Value]:
    def value(at: RowContext) -> Value:
        part = _part(at, kind, name)
        return None if part is None or part.difference is None else getattr(part.difference, figure)

    return value


def _gap(at: RowContext) -> Value:
    found = at.comparison.breakdowns.get(RECALL)
    gap = found.rows[at.row.label].gap if found else None
    return None if gap is None else gap.share


def _bits(at: RowContext) -> Value:
    found = at.comparison.breakdowns.get(TEXT)
    bits = found.rows[at.row.label].bits_per_byte if found else math.nan
    return bits if math.isfinite(bits) else None


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _loss_of(name: str, title: str, kind: str, part: str) -> list[Column]:
    """Return the columns of a part: its loss, and the difference to the baseline with its interval."""
    found = [Column(f"{name}_loss", f"loss {title}", _own(kind, part, "loss"), _loss)]
    for end, said in _ENDS.items():
        head = f"{name}_delta" if end == "delta" else f"{name}_delta_{end}"
        found.append(Column(head, f"Δ {title}{said}", _change(kind, part, end), format_change))
    return found


BREAKDOWN_COLUMNS = (
    *_loss_of("recall", "on repeated bigrams", RECALL, REPEATED),
    Column("recall_share", "repeated bigrams", _own(RECALL, REPEATED, "share"), format_percent),
    Column("recall_gap", "their share of the gap", _gap, format_percent),
    *_loss_of("other", "on all others", RECALL, OTHER),
    *_loss_of("beyond", "beyond training", REACH, BEYOND),
    *_loss_of("text", "on the text", TEXT, "all"),
    Column("text_bits", "bits/byte of the text", _bits, _loss),
)


def length_column(name: str) -> Column | None:
    """Return the column `loss@512` or `delta@512`, `delta_low@512`, `delta_high@512`; None for any other name."""
    figure, _, length = name.partition("@")
    if not length.isdecimal():
        return None
    if figure == "loss":
        return Column(name, f"loss at {length}", _own(LENGTHS, length, "loss"), _loss)
    ends = {"delta": "delta", "delta_low": "low", "delta_high": "high"}
    if figure not in ends:
        return None
    end = ends[figure]
    return Column(name, f"Δ at {length}{_ENDS[end]}", _change(LENGTHS, length, end), format_change)
