"""Curves on a terminal, in block characters."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vgpt.report.comparison import Comparison
from vgpt.report.curves import Histories, curve
from vgpt.report.grouping import Row
from vgpt.report.layout import add_row, new_table
from vgpt.report.numbers import DASH, shown_count

_SPARKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


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
            add_row(table, row, f"{values[0]:.4f}", line, f"{values[-1]:.4f}", shown_count(tokens))
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
