"""Differences over compute: each rung with its interval, the line through them with its band, and predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vgpt.compare.ladder import Ladder, VariantLadder
from vgpt.report.figures.style import COLORS, GRAY, MARKERS, Figure, add_legend, new_figure

_POINTS = 60
_BAND, _PREDICTION = 0.15, 0.55
_ROOM = 1.6
"""The axis shows so many times the span of what was measured; what reaches beyond is cut, and the legend says so."""


def draw_ladder(ladder: Ladder | None) -> Figure | None:
    """Draw one panel per variant; None where no difference is known."""
    if ladder is None:
        return None
    told = [one for one in ladder.variants if any(at.delta is not None for at in one.rungs)]
    if not told:
        return None
    title = f"Difference to {ladder.baseline} over compute"
    figure, axes = new_figure(title, len(told), share_loss=False)
    handles: dict[str, Any] = {}
    cut: list[str] = []
    for number, (axis, one) in enumerate(zip(axes, told, strict=True)):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        _draw(axis, one, ladder, color, marker, handles)
        if _limit(axis, one):
            cut.append(one.variant)
        axis.set_title(one.variant, fontsize=10, parse_math=False)
        axis.set_xlabel("training FLOPs (6 N D)")
    axes[0].set_ylabel("difference of validation loss (nats per token)")
    add_legend(figure, handles, f"Intervals of {', '.join(cut)} reach beyond the axis." if cut else "")
    return Figure("ladder", title, f"{' '.join(map(_alt, told))}", figure)


def _draw(axis: Any, one: VariantLadder, ladder: Ladder, color: str, marker: str, handles: dict[str, Any]) -> None:
    axis.axhline(0, color=GRAY, linewidth=0.8)
    axis.set_xscale("log")
    told = [at for at in one.rungs if at.delta is not None]
    if one.trend is not None:
        xs = np.linspace(told[0].rung.x, max(told[-1].rung.x, ladder.ahead.x), _POINTS)
        values, halves = map(np.array, zip(*(one.trend.at(float(x)) for x in xs), strict=True))
        band = axis.fill_between(10**xs, values - halves, values + halves, color=color, alpha=_BAND, linewidth=0)
        (line,) = axis.plot(10**xs, values, color=color, linewidth=1.2, linestyle="--")
        handles.setdefault("trend, 95% band", (band, line))
    for at in told:
        name = "rung, joint 95% interval" if at.point else "no verdict, and no part in the trend"
        look = {"color": color, "marker": marker, "mfc": color if at.point else "white", "capsize": 3}
        drawn = axis.errorbar([at.rung.compute], [at.delta], yerr=[at.half_width or 0.0], linestyle="none", **look)
        handles.setdefault(name, drawn)
    for made in [*one.predictions, *([one.next] if one.next else [])]:
        drawn = axis.vlines(10**made.x * 1.12, made.low, made.high, color=GRAY, linewidth=4, alpha=_PREDICTION)
        handles.setdefault("95% prediction from the rungs before", drawn)


def _limit(axis: Any, one: VariantLadder) -> bool:
    """Show what was measured, not only how little three rungs say of it; return whether anything is cut."""
    ends = [end for at in one.rungs if at.delta is not None for end in _ends(at.delta, at.half_width)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = (_ROOM - 1) / 2 * (high - low or 1.0) * 2
    wanted = axis.get_ylim()
    axis.set_ylim(max(wanted[0], low - room), min(wanted[1], high + room))
    return wanted[0] < low - room or wanted[1] > high + room


def _ends(value: float, half: float | None) -> Sequence[float]:
    return value - (half or 0.0), value + (half or 0.0)


def _alt(one: VariantLadder) -> str:
    told = ", ".join(f"{at.delta:+.4f} at {at.rung.name}" for at in one.rungs if at.delta is not None)
    slope = f"; {one.trend.slope:+.4f} ± {one.trend.slope_half_width:.4f} per tenfold compute" if one.trend else ""
    return f"{one.variant}: {told}{slope}."
