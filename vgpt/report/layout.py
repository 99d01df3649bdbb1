"""How the tables of a comparison look: one row per variant, labels that wrap, numbers that do not."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vgpt.report.grouping import Row

_LABEL_WIDTH = 26
_LEAST_LABEL, _LEAST_WORDS = 11, 10
"""Columns that wrap are never squeezed below this: the numbers of every table leave them as much on 80 columns."""

Cell = Text | str


def new_table(title: str, columns: Sequence[str], *, words: str = "") -> Table:
    """Return an empty table: a column for the label, one for each number, and last one for `words` where named."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("attention", min_width=_LEAST_LABEL, max_width=_LABEL_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    if words:
        table.add_column(words, min_width=_LEAST_WORDS, overflow="fold")
    return table


def add_row(table: Table, row: Row, *cells: Cell) -> None:
    """Add the line of a row; nothing in it is read as markup."""
    texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
    table.add_row(Text(display_label(row.title)), *texts)


def display_label(label: str) -> str:
    """Return a row's label with spaces, so that a long one can wrap: `gqa n_kv_head=2`."""
    return label.replace(":", " ", 1).replace(",", " ")
