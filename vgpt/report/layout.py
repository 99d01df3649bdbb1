"""How tables look on a terminal: one row per variant, labels that wrap, curves in block characters."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vgpt.compare.rows import Row
from vgpt.formatting import wrapping_label

_LABEL_WIDTH = 26
_LEAST_LABEL, _LEAST_WORDS = 11, 10
"""Columns that wrap are never squeezed below this: the numbers of every table leave them as much on 80 columns."""

Cell = Text | str


def new_table(title: str, columns: Sequence[str], *, words: str = "") -> Table:
    """Return an empty table: a column for the label, one for each number, and last one for `words` where named."""
    table = _empty(title)
    table.add_column("attention", min_width=_LEAST_LABEL, max_width=_LABEL_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    if words:
        table.add_column(words, min_width=_LEAST_WORDS, overflow="fold")
    return table


def plain_columns(title: str, columns: Sequence[str]) -> Table:
    """Return an empty table of numbers alone, the first of which name its lines."""
    table = _empty(title)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _empty(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def add_row(table: Table, row: Row, *cells: Cell) -> None:
    """Add the line of a row; nothing in it is read as markup."""
    texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
    table.add_row(Text(wrapping_label(row.title)), *texts)


_SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, *, low: float | None = None, high: float | None = None) -> str:
    """Return values as a row of at most `width` block characters, the newest last, each the mean of its share.

    Args:
        values: what to show.
        width: characters.
        low: value of the lowest block; None for the lowest value. Larger ones are shown at the edge.
        high: value of the highest block; likewise.
    """
    if not values:
        return ""
    share = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for i in range(0, len(values), share) if (part := values[i : i + share])]
    low, high = min(means) if low is None else low, max(means) if high is None else high
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[min(len(_SPARKS) - 1, max(0, round((mean - low) * scale)))] for mean in means)
