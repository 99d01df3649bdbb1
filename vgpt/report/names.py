"""Short names of rows, for where there is little room: figures, and tables of one line per row."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vgpt.report.architecture import architecture_of
from vgpt.report.grouping import Row, attention_label
from vgpt.report.labels import telling_label
from vgpt.report.layout import display_label


def row_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return a name for each row by its label: without most settings that are defaults, where that is no other's name.

    Letters that cannot be printed, which a run's name may hold, are shown as `?`.
    """
    short = {row.label: _short(row) for row in rows}
    names = list(short.values())
    chosen = {label: name if names.count(name) == 1 else label for label, name in short.items()}
    return {label: printable(display_label(name)) for label, name in chosen.items()}


def with_names(rows: Iterable[Row]) -> list[Row]:
    """Return rows with their short names."""
    found = list(rows)
    names = row_names(found)
    return [replace(row, name=names[row.label]) for row in found]


def printable(text: str) -> str:
    """Return a text in one line, without control codes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _short(row: Row) -> str:
    config = architecture_of(row.runs[0])
    if config is None:
        return row.label
    before, _, after = row.label.rpartition(attention_label(row.attn, row.settings))
    return f"{before}{telling_label(config.attn)}{after}"
