"""Loss curves: the same runs over tokens, over training FLOPs and over training time."""

from typing import Any

from vgpt.report.comparison import Comparison
from vgpt.report.curves import AXES, Axis, Curve, Histories, curve
from vgpt.report.figures.style import GREY, Drawn, Look, add_legend, looks, new_figure
from vgpt.report.numbers import shown_count

_LABELS: dict[Axis, str] = {
    "tokens": "training tokens",
    "flops": "training FLOPs, of each variant's own count",
    "seconds": "training time in seconds",
}
_STEEP = 0.9
"""The share of points, the last ones, that must be told apart: the fall of the first steps would flatten all others."""


def draw_losses(comparison: Comparison, histories: Histories) -> Drawn | None:
    """Draw validation loss with the band of the seeds; None where no row has two evaluations within reach."""
    found: dict[Axis, list[tuple[Look, Curve]]] = {}
    look = looks(comparison.rows)
    for axis in AXES:
        lines = [(look[row.label], line) for row in comparison.rows if (line := curve(row, histories, axis))]
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
        panel.xaxis.set_major_formatter(lambda value, _: shown_count(value))
        panel.locator_params(axis="x", nbins=5)
        if comparison.milestone is not None and comparison.milestone.axis == axis:
            panel.axvline(comparison.milestone.amount, color=GREY, linewidth=0.9, linestyle=":")
    panels[0].set_ylabel("validation loss (nats per token)")
    _focus(panels[0], [line for lines in found.values() for _, line in lines])
    runs = sorted({line.runs for lines in found.values() for _, line in lines})
    band = "band: from the lowest to the highest seed, as far as all of them went; " if runs[-1] > 1 else ""
    count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    add_legend(figure, handles, f"line: mean of {count} {'run' if runs[-1] == 1 else 'seeds'}; {band}lower is better")
    alt = "; ".join(
        f"{style.name} ends at {line.mean[-1]:.4f} after {shown_count(line.x[-1])} tokens"
        for style, line in found.get("tokens", [])
    )
    return Drawn("loss_curves", title, f"Validation loss: {alt}.", figure)


def draw_curve(panel: Any, style: Look, line: Curve, *, marked: bool = True) -> Any:
    """Draw a mean with the band of its seeds, where there are several; return what a legend shows of it."""
    if line.runs > 1:
        panel.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.18, linewidth=0)
    (handle,) = panel.plot(
        line.x,
        line.mean,
        color=style.colour,
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
