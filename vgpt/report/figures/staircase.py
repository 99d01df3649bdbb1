"""A staircase as a waterfall: each step hangs where the one before it ends, and the whole stands beside them."""

from typing import Any

from vgpt.compare.comparison import Comparison
from vgpt.compare.steps import Climb, Step
from vgpt.formatting import wrapping_label
from vgpt.report.figures.style import COLORS, GRAY, Figure, add_legend, new_figure
from vgpt.report.staircase import sum_lines

_LONGEST = 30
_BETTER, _WORSE = COLORS[2], COLORS[1]


def draw_staircase(comparison: Comparison) -> Figure | None:
    """Draw the differences of all steps with their intervals; None without a staircase, or before its first step."""
    found = comparison.climb
    if found is None or all(step.delta is None for step in found.steps):
        return None
    start, end = (wrapping_label(found.title(number)) for number in (0, len(found.stairs) - 1))
    title = f"Validation loss, step by step from {start} to {end}"
    figure, (panel,) = new_figure("Validation loss, step by step", 1, share_loss=False)
    figure.set_size_inches(max(6.4, 1.7 * (len(found.steps) + 2)), 4.8)
    labels = [_short(stair.what) for stair in found.stairs[1:]]
    level = 0.0
    for number, step in enumerate(found.steps):
        so_far = found.cumulative(number)
        level = so_far if so_far is not None else level
        _draw(panel, number, level, step)
        if step.delta is not None and number + 1 < len(found.steps):
            panel.plot([number, number + 1], [level + step.delta] * 2, color=GRAY, linewidth=0.8, zorder=1)
    if len(found.steps) > 1:
        _draw(panel, len(labels), 0.0, found.whole)
        labels.append("the whole")
    panel.axhline(0.0, color=GRAY, linewidth=0.8)
    panel.set_xticks(range(len(labels)), labels, fontsize=8)
    for text in panel.get_xticklabels():
        text.set_parse_math(False)
    panel.set_ylabel("change of validation loss (nats per token)")
    joint = any(step.judged for step in (*found.steps, found.whole))
    note = "lines: 95% intervals, joint over all steps and the whole" if joint else "lines: 95% interval of each alone"
    add_legend(figure, _handles(), f"{note}; pale: no difference shown")
    return Figure("staircase", title, _alt(found), figure)


def _draw(panel: Any, place: int, level: float, step: Step) -> None:
    if step.delta is None:
        panel.text(place, level, "no runs", ha="center", va="bottom", color=GRAY, fontsize=8)
        return
    shown = step.verdict in ("better", "worse")
    color = _BETTER if step.delta < 0 else _WORSE
    panel.bar(place, step.delta, 0.6, bottom=level, color=color, alpha=0.9 if shown else 0.35, zorder=2)
    if step.half_width is not None:
        panel.errorbar(place, level + step.delta, step.half_width, color="black", capsize=3, linewidth=1.1, zorder=3)


def _handles() -> dict[str, Any]:
    from matplotlib.patches import Patch

    return {"lower loss": Patch(color=_BETTER), "higher loss": Patch(color=_WORSE)}


def _short(text: str) -> str:
    """Return a change in lines that fit below a bar."""
    name, _, values = text.partition(" ")
    lines = [name, values] if values and not values.startswith("->") else [text]
    return "\n".join(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines)


def _alt(found: Climb) -> str:
    parts = [
        f"{stair.what}: {'no runs' if step.delta is None else f'{step.delta:+.4f}'}"
        for stair, step in zip(found.stairs[1:], found.steps, strict=True)
    ]
    return f"{'; '.join(parts)}. {' '.join(sum_lines(found))}".strip()
