"""Losses by position and by length, and differences to the baseline by kinds of tokens."""

from collections.abc import Sequence
from typing import Any

from vgpt.compare.breakdowns.collect import BEYOND, KindBreakdown, RowPart
from vgpt.compare.comparison import Comparison
from vgpt.compare.curves import Curve
from vgpt.report.figures.curves import draw_curve
from vgpt.report.figures.style import (
    COLORS,
    DASHES,
    GRAY,
    MARKERS,
    Figure,
    LineStyle,
    add_legend,
    line_styles,
    new_figure,
)
from vgpt.tracking.breakdowns.record import LENGTHS, POSITIONS, REACH, RECALL, Breakdown

_NAMES = {
    POSITIONS: ("by_position", "Validation loss by position in the window"),
    LENGTHS: ("lengths", "Validation loss by length of the window, over the same text"),
    REACH: ("long_positions", "Validation loss by position in the longest windows"),
}
_AXES = {POSITIONS: "tokens of context", REACH: "tokens of context", LENGTHS: "tokens in a window"}


def draw_breakdowns(comparison: Comparison) -> list[Figure]:
    """Draw the breakdowns that the rows of a comparison have on record."""
    styles = line_styles(comparison.rows)
    found: list[Figure] = []
    for kind in (LENGTHS, REACH):
        if (one := comparison.breakdowns.get(kind)) is not None:
            lines = [(styles[label], _curve(row.parts)) for label, row in one.rows.items() if _axis(row.parts)]
            found.append(_draw(kind, lines, one.block_size))
    if (one := comparison.breakdowns.get(POSITIONS)) is not None and _paired(one):
        found.append(_draw_differences(comparison, one))
    if (one := comparison.breakdowns.get(RECALL)) is not None and _paired(one):
        found.append(_draw_recall(comparison, one))
    return found


def draw_one(name: str, found: Sequence[Breakdown]) -> list[Figure]:
    """Draw what one run has by position and by length."""
    style = LineStyle(name.strip("_") or "run", COLORS[0], MARKERS[0], DASHES[0])
    figures: list[Figure] = []
    for one in found:
        if one.kind in _NAMES:
            losses = tuple(part.loss for part in one.parts)
            errors = [part.loss_se for part in one.parts]
            known = all(error == error for error in errors)
            low = tuple(loss - 2 * error for loss, error in zip(losses, errors, strict=True)) if known else losses
            high = tuple(loss + 2 * error for loss, error in zip(losses, errors, strict=True)) if known else losses
            line = Curve(tuple(float(part.at) for part in one.parts), losses, low, high, 2 if known else 1)
            note = "band: twice the standard error over windows; lower is better" if known else "lower is better"
            figures.append(_draw(one.kind, [(style, line)], one.block_size, note))
    return figures


def _axis(parts: Sequence[RowPart]) -> list[RowPart]:
    return [part for part in parts if part.name != BEYOND]


def _curve(parts: Sequence[RowPart]) -> Curve:
    shown = _axis(parts)
    several = any(part.lowest < part.highest for part in shown)
    return Curve(
        tuple(float(part.at) for part in shown),
        tuple(part.loss for part in shown),
        tuple(part.lowest for part in shown),
        tuple(part.highest for part in shown),
        2 if several else 1,
    )


def _draw(kind: str, lines: Sequence[tuple[LineStyle, Curve]], block_size: int, note: str = "") -> Figure:
    name, title = _NAMES[kind]
    figure, (panel,) = new_figure(title, 1)
    handles: dict[str, Any] = {style.name: draw_curve(panel, style, line) for style, line in lines}
    _log_axis(panel, _AXES[kind])
    panel.set_ylabel("validation loss (nats per token)")
    beyond = any(x > block_size for _, line in lines for x in line.x)
    if block_size and beyond:
        panel.axvline(block_size, color=GRAY, linewidth=0.9, linestyle=":")
    band = "band: from the lowest to the highest seed; " if any(line.runs > 1 for _, line in lines) else ""
    dotted = "dotted: the length of training; " if block_size and beyond else ""
    add_legend(figure, handles, f"{dotted}{note or f'{band}lower is better'}")
    alt = "; ".join(f"{style.name} goes from {line.mean[0]:.4f} to {line.mean[-1]:.4f}" for style, line in lines)
    return Figure(name, title, f"{title}: {alt}.", figure)


def _log_axis(panel: Any, label: str) -> None:
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel(label)


def _paired(one: KindBreakdown) -> bool:
    return any(part.difference is not None for row in one.rows.values() for part in row.parts)


def _differing(comparison: Comparison, one: KindBreakdown) -> list[tuple[LineStyle, list[RowPart]]]:
    styles = line_styles(comparison.rows)
    found = [(styles[label], [part for part in row.parts if part.difference]) for label, row in one.rows.items()]
    return [(style, parts) for style, parts in found if parts]


def _draw_differences(comparison: Comparison, one: KindBreakdown) -> Figure:
    title = "Difference to the baseline by position in the window"
    figure, (panel,) = new_figure(title, 1)
    panel.axhline(0.0, color=GRAY, linewidth=0.9)
    handles: dict[str, Any] = {}
    said: list[str] = []
    for style, parts in _differing(comparison, one):
        delta, low, high = (_read(parts, name) for name in ("delta", "low", "high"))
        line = Curve(tuple(float(part.at) for part in parts), delta, low, high, 2)
        handles[style.name] = draw_curve(panel, style, line)
        said.append(f"{style.name} from {delta[0]:+.4f} to {delta[-1]:+.4f}")
    _log_axis(panel, _AXES[POSITIONS])
    panel.set_ylabel("Δ loss (nats per token)")
    add_legend(figure, handles, "band: 95% interval of each number alone; below zero is better")
    return Figure("position_differences", title, f"{title}: {'; '.join(said)}.", figure)


def _read(parts: Sequence[RowPart], name: str) -> tuple[float, ...]:
    """Return a figure of differences; an end that is not known is the difference itself."""
    found: list[float] = []
    for part in parts:
        assert part.difference is not None
        value = getattr(part.difference, name)
        found.append(part.difference.delta if value is None else value)
    return tuple(found)


def _draw_recall(comparison: Comparison, one: KindBreakdown) -> Figure:
    title = "Difference to the baseline on repeated bigrams and on all other tokens"
    figure, (panel,) = new_figure(title, 1)
    panel.axhline(0.0, color=GRAY, linewidth=0.9)
    handles: dict[str, Any] = {}
    said: list[str] = []
    rows = _differing(comparison, one)
    for number, (style, parts) in enumerate(rows):
        delta, low = _read(parts, "delta"), _read(parts, "low")
        beside = 0.4 * ((number + 0.5) / len(rows) - 0.5)
        handles[style.name] = panel.errorbar(
            [place + beside for place in range(len(parts))],
            delta,
            yerr=[abs(value - end) for value, end in zip(delta, low, strict=True)],
            color=style.color,
            marker=style.marker,
            linestyle="none",
            capsize=3,
        )
        said.append(f"{style.name} " + ", ".join(f"{d:+.4f} on {p.name}" for d, p in zip(delta, parts, strict=True)))
    names = max((parts for _, parts in rows), key=len)
    panel.set_xticks(range(len(names)), [f"{part.name}\n{100 * part.share:.0f}% of tokens" for part in names])
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_ylabel("Δ loss (nats per token)")
    add_legend(figure, handles, "bars: 95% interval of each number alone; below zero is better")
    return Figure("recall", title, f"{title}: {'; '.join(said)}.", figure)
