"""A column of the compact tables, and what it looks at."""

from collections.abc import Callable
from dataclasses import dataclass

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import RowStatistics
from vgpt.formatting import DASH

Value = float | str | None


@dataclass(frozen=True)
class RowContext:
    """A row in its comparison: what a column looks at."""

    comparison: Comparison
    row: Row
    found: RowStatistics

    @property
    def baseline(self) -> Row:
        """The first row."""
        return self.comparison.rows[0]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: what `--columns` and the head of CSV call it.
        title: its head for people.
        value: the raw value of a row: a number, a text, or None where there is none.
        show: how people read a number.
    """

    name: str
    title: str
    value: Callable[[RowContext], Value]
    show: Callable[[float], str] = "{:.4g}".format

    def format(self, context: RowContext) -> str:
        """Return the value as people read it; a dash where there is none."""
        value = self.value(context)
        if value is None:
            return DASH
        return value if isinstance(value, str) else self.show(value)
