"""Results of standard suites on one run as a table: what `vgpt eval --suite` shows."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vgpt.formatting import DASH
from vgpt.tracking.suites.record import TaskResult


def suite_table(tasks: Sequence[TaskResult]) -> Table:
    """Return a line for each figure of each task, with the way that is better."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("task", overflow="fold")
    for head in ("shots", "documents"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("metric", overflow="fold")
    for head in ("value", "± SE"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in tasks:
        whole = f"{one.documents:,}" if one.documents == one.of else f"{one.documents:,} of {one.of:,}"
        heads = [one.task, str(one.fewshot), whole]
        for name, figure in one.figures.items():
            cells = [*heads, f"{name}{better(one, name)}", number(figure.value), number(figure.se)]
            table.add_row(*map(Text, cells))
            heads = ["", "", ""]
    return table


def better(one: TaskResult, name: str) -> str:
    """Return which way of a figure is better, in words; empty where nobody knows."""
    if name not in one.higher_is_better:
        return ""
    return " (higher is better)" if one.higher_is_better[name] else " (lower is better)"


def number(value: float) -> str:
    """Return a figure as people read it."""
    if not math.isfinite(value):
        return DASH
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
