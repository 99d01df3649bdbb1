"""Loss curves over tokens, training FLOPs and training time, and loss by position in the evaluation windows."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from vgpt.compare.comparison import Comparison
from vgpt.compare.curves import AXES, Axis, Curve, Histories, curve
from vgpt.compare.rows import Row
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.formatting import format_count
from vgpt.report.figures.style import GRAY, Figure, LineStyle, add_legend, line_styles, new_figure

_LABELS: dict[Axis, str] = {
    "tokens": "training tokens",
    "flops": "training FLOPs, of each variant's own count",
    "seconds": "training time in seconds",
}
_STEEP = 0.9
"""The share of points, the last ones, that must be told apart: the fall of the first steps would flatten all others."""


def draw_losses(comparison: Comparison, histories: Histories) -> Figure | None:
    """Draw validation loss with the band of the seeds; None where no row has two evaluations within reach."""
    found: dict[Axis, list[tuple[LineStyle, Curve]]] = {}
    styles = line_styles(comparison.rows)
    for axis in AXES:
        lines = [(styles[row.label], line) for row in comparison.rows if (line := curve(row, histories, axis))]
        if lines:
            found[axis] = lines
    if not any(len(line.x) > 1 for lines in found.values() for _, line in lines):
        return None
    title = "Validation loss over tokens, compute and time"
    figure, panels = new_figure(title, len(found))
    handles: dict[str, Any] = {}
    for panel, (axis, lines) in zip(panels, found.items(), strict=True):
        for style, line in lines:
            handles.setdefault(style.name, draw_curve(panel, style, line, marked=len(line.x) <= 30))
        panel.set_xlabel(_LABELS[axis])
        panel.xaxis.set_major_formatter(lambda value, _: format_count(value))
        panel.locator_params(axis="x", nbins=5)
        if comparison.snapshot_point is not None and comparison.snapshot_point.axis == axis:
            panel.axvline(comparison.snapshot_point.amount, color=GRAY, linewidth=0.9, linestyle=":")
    panels[0].set_ylabel("validation loss (nats per token)")
    _focus(panels[0], [line for lines in found.values() for _, line in lines])
    runs = sorted({line.runs for lines in found.values() for _, line in lines})
    band = "band: from the lowest to the highest seed, as far as all of them went; " if runs[-1] > 1 else ""
    count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    add_legend(figure, handles, f"line: mean of {count} {'run' if runs[-1] == 1 else 'seeds'}; {band}lower is better")
    alt = "; ".join(
        f"{style.name} ends at {line.mean[-1]:.4f} after {format_count(line.x[-1])} tokens"
        for style, line in found.get("tokens", [])
    )
    return Figure("loss_curves", title, f"Validation loss: {alt}.", figure)


def draw_curve(panel: Any, style: LineStyle, line: Curve, *, marked: bool = True) -> Any:
    """Draw a mean with the band of its seeds, where there are several; return what a legend shows of it."""
    if line.runs > 1:
        panel.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.18, linewidth=0)
    (handle,) = panel.plot(
        line.x,
        line.mean,
        color=style.color,
        linestyle=style.dash,
        linewidth=1.6,
        marker=style.marker if marked else None,
        markersize=3.5,
    )
    return handle


def _focus(panel: Any, lines: list[Curve]) -> None:
    """Leave out of the picture the height of the first evaluations, where the others would be flattened by it."""
    low = min(min(line.low) for line in lines)
    tails = [value for line in lines for value in line.high[-max(2, round(_STEEP * len(line.high))) :]]
    room = 0.05 * (max(tails) - low) or 0.05
    panel.set_ylim(low - room, max(tails) + room)


def draw_positions(comparison: Comparison, windows: Windows) -> Figure | None:
    """Draw the loss of tokens by how many tokens they see before them; None where no row has it on record.

    Positions are gathered in spans that widen by about the square root of 2, as the loss falls by factors of context.
    """
    styles = line_styles(comparison.rows)
    lines = {row.label: line for row in comparison.rows if (line := _line(row, windows))}
    if not lines:
        return None
    title = "Validation loss by position in the context"
    figure, (panel,) = new_figure(title, 1)
    handles: dict[str, Any] = {}
    for label, line in lines.items():
        style = styles[label]
        handles.setdefault(style.name, draw_curve(panel, style, line))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel("tokens of context")
    panel.set_ylabel("validation loss (nats per token)")
    band = "; band: from the lowest to the highest seed" if any(line.runs > 1 for line in lines.values()) else ""
    add_legend(figure, handles, f"mean over windows and a span of positions{band}; lower is better")
    alt = "; ".join(
        f"{styles[label].name} falls from {line.mean[0]:.4f} to {line.mean[-1]:.4f}" for label, line in lines.items()
    )
    return Figure("positions", title, f"Loss from the first to the last span of positions: {alt}.", figure)


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
