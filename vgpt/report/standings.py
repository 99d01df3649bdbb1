"""The table of a comparison before the end: at which point, and what each row had there."""

from collections.abc import Callable, Sequence

from rich.console import RenderableType
from rich.text import Text

from vgpt.report.comparison import Comparison
from vgpt.report.layout import add_row, new_table
from vgpt.report.milestone import Standing
from vgpt.report.numbers import DASH, shown_count


def standings_table(comparison: Comparison) -> list[RenderableType]:
    """Return the table with its caption; nothing where the runs are compared at their end."""
    milestone = comparison.milestone
    if milestone is None:
        return []
    table = new_table(f"Compared at {milestone}, not at the end", ["step", "tokens", "training\nFLOPs", "seconds"])
    for row in comparison.rows:
        found = comparison.standings[row.label]
        add_row(
            table,
            row,
            _range([one.step for one in found], lambda value: f"{value:,.0f}"),
            _range([one.tokens for one in found], shown_count),
            _range([one.flops for one in found], shown_count),
            _range([one.seconds for one in found], lambda value: f"{value:,.4g}"),
        )
    text = (
        f"Losses are those of each run's last evaluation at or before {milestone}; costs and sizes are those of whole "
        "runs. Learning rates follow the schedules of whole runs. A point that was chosen after a look at the curves "
        "makes p-values too small."
    )
    return [table, Text(text, "dim"), Text()]


def standing_json(one: Standing) -> dict[str, float | str | None]:
    """Return what a run had as plain data."""
    return {
        "run_name": one.run.run_name,
        "step": one.step,
        "tokens": one.tokens,
        "flops": one.flops,
        "seconds": one.seconds,
    }


def _range(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    """Return the values of a row's runs: one where they look the same, else from the lowest to the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    low, high = show(min(known)), show(max(known))
    return low if low == high else f"{low} to {high}"
