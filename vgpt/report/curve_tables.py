"""Losses before the end as tables: where each row was read for a comparison there, and its curve over tokens."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.curves import Histories, curve
from vgpt.compare.rows import Row
from vgpt.compare.snapshot import UNEQUAL_POINTS, Snapshot
from vgpt.formatting import DASH, format_count
from vgpt.report.layout import add_row, new_table, sparkline


def snapshot_table(comparison: Comparison) -> list[RenderableType]:
    """Return the table with its caption; nothing where the runs are compared at their end."""
    snapshot_point = comparison.snapshot_point
    if snapshot_point is None:
        return []
    columns = ["evaluated\nbefore", "evaluated\nafter", "tokens", "training\nFLOPs", "seconds"]
    table = new_table(f"Compared at {snapshot_point}, not at the end", columns)
    for row in comparison.rows:
        found = comparison.snapshots[row.label]
        add_row(
            table,
            row,
            _range([one.before for one in found], lambda step: f"step {step:,.0f}"),
            _range([one.after for one in found], lambda step: f"step {step:,.0f}"),
            _range([one.tokens for one in found], format_count),
            _range([one.flops for one in found], format_count),
            _range([one.seconds for one in found], lambda value: f"{value:,.4g}"),
        )
    text = (
        f"Losses at {snapshot_point} are estimates where no evaluation lies there: read between the two around it, by "
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


def snapshot_json(one: Snapshot) -> dict[str, Any]:
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


_WIDTH = 32


def curves_table(comparison: Comparison, histories: Histories) -> list[RenderableType]:
    """Return the losses of all rows over tokens: validation, and training where a run was evaluated but once.

    All rows share one scale, so that the lines can be compared.
    """
    found = [(row, *_curve(row, histories)) for row in comparison.rows]
    known = [values for _, values, _, _ in found if values]
    if not known:
        return [Text("No losses along the way are within reach: neither journals nor MLflow hold any.", "dim"), Text()]
    low, high = min(map(min, known)), max(map(max, known))
    table = new_table(f"Loss over tokens, {low:.4f} to {high:.4f}", ["first", "curve", "last", "tokens"])
    table.columns[2].justify = "left"
    training = [row.label for row, _, _, of_training in found if of_training]
    for row, values, tokens, _ in found:
        if values:
            line = Text(sparkline(values, _WIDTH, low=low, high=high), "cyan")
            add_row(table, row, f"{values[0]:.4f}", line, f"{values[-1]:.4f}", format_count(tokens))
        else:
            add_row(table, row, DASH, DASH, DASH, DASH)
    text = "Validation loss, mean of the seeds; one scale for all rows."
    if training:
        text += f" Of {', '.join(training)}: training loss."
    return [table, Text(text, "dim"), Text()]


def _curve(row: Row, histories: Histories) -> tuple[tuple[float, ...], float, bool]:
    """Return a row's losses, the tokens of the last, and whether they are those of training."""
    for training in (False, True):
        found = curve(row, histories, "tokens", training=training)
        if found is not None and len(found.x) > 1:
            return found.mean, found.x[-1], training
    return (), 0.0, False
