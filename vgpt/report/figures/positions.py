"""Loss by position in the evaluation windows: what more context is worth to each variant."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from vgpt.report.comparison import Comparison
from vgpt.report.curves import Curve
from vgpt.report.evaluation_noise import Windows
from vgpt.report.figures.losses import draw_curve
from vgpt.report.figures.style import Drawn, add_legend, looks, new_figure
from vgpt.report.grouping import Row


def draw_positions(comparison: Comparison, windows: Windows) -> Drawn | None:
    """Draw the loss of tokens by how many tokens they see before them; None where no row has it on record.

    Positions are gathered in spans that widen by about the square root of 2, as the loss falls by factors of context.
    """
    look = looks(comparison.rows)
    lines = {row.label: line for row in comparison.rows if (line := _line(row, windows))}
    if not lines:
        return None
    title = "Validation loss by position in the context"
    figure, (panel,) = new_figure(title, 1)
    handles: dict[str, Any] = {}
    for label, line in lines.items():
        style = look[label]
        handles.setdefault(style.name, draw_curve(panel, style, line))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel("tokens of context")
    panel.set_ylabel("validation loss (nats per token)")
    band = "; band: from the lowest to the highest seed" if any(line.runs > 1 for line in lines.values()) else ""
    add_legend(figure, handles, f"mean over windows and a span of positions{band}; lower is better")
    alt = "; ".join(
        f"{look[label].name} falls from {line.mean[0]:.4f} to {line.mean[-1]:.4f}" for label, line in lines.items()
    )
    return Drawn("positions", title, f"Loss from the first to the last span of positions: {alt}.", figure)


def spans(length: int) -> list[tuple[int, int]]:
    """Return spans (first, end) of positions 0 to length - 1: each begins about 1.41 times as far as the one before."""
    edges = sorted({round(2 ** (half / 2)) for half in range(2 * length.bit_length() + 1)} - {0})
    starts = [0, *(edge for edge in edges if edge < length)]
    return list(zip(starts, [*starts[1:], length], strict=True))


def _line(row: Row, windows: Windows) -> Curve | None:
    found = [one.positions for run in row.runs if (one := windows(run)) is not None and one.positions]
    if not found or len({len(positions) for positions in found}) > 1:
        return None
    where = spans(len(found[0]))
    values = [[_mean(positions, *span) for positions in found] for span in where]
    x = tuple((first + 1 + end) / 2 for first, end in where)
    return Curve(x, tuple(map(fmean, values)), tuple(map(min, values)), tuple(map(max, values)), len(found))


def _mean(positions: Sequence[float], first: int, end: int) -> float:
    return fmean(positions[first:end])
