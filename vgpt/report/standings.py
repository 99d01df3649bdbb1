"""The table of a comparison before the end: between which evaluations each row was read, and what it had there."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.report.comparison import Comparison
from vgpt.report.layout import add_row, new_table
from vgpt.report.milestone import UNEQUAL_POINTS, Standing
from vgpt.report.numbers import DASH, shown_count


def standings_table(comparison: Comparison) -> list[RenderableType]:
    """Return the table with its caption; nothing where the runs are compared at their end."""
    milestone = comparison.milestone
    if milestone is None:
        return []
    columns = ["evaluated\nbefore", "evaluated\nafter", "tokens", "training\nFLOPs", "seconds"]
    table = new_table(f"Compared at {milestone}, not at the end", columns)
    for row in comparison.rows:
        found = comparison.standings[row.label]
        add_row(
            table,
            row,
            _range([one.before for one in found], lambda step: f"step {step:,.0f}"),
            _range([one.after for one in found], lambda step: f"step {step:,.0f}"),
            _range([one.tokens for one in found], shown_count),
            _range([one.flops for one in found], shown_count),
            _range([one.seconds for one in found], lambda value: f"{value:,.4g}"),
        )
    text = (
        f"Losses at {milestone} are estimates where no evaluation lies there: read between the two around it, by "
        "proportion in the logarithm of the amount. Costs and sizes are those of whole runs, as are the schedules of "
        "learning rates. A point that was chosen after a look at the curves makes p-values too small."
    )
    return [table, Text(text, "dim"), *unequal_lines(comparison), Text()]


def unequal_lines(comparison: Comparison) -> list[Text]:
    """Say of each row that was not read at the point why not."""
    titles = {row.label: row.title for row in comparison.rows}
    return [
        Text(f"  {titles[label]}: {UNEQUAL_POINTS}: {reason}", "yellow")
        for label, reason in comparison.unequal_points.items()
    ]


def standing_json(one: Standing) -> dict[str, Any]:
    """Return what a run had as plain data."""
    return {
        "run_name": one.run.run_name,
        "amount": one.amount,
        "evaluated_before": one.before,
        "evaluated_after": one.after,
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
    return low if low == high else f"{low} to {high.removeprefix('step ')}"
