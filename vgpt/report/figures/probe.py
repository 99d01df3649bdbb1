"""What variants can do, drawn: accuracy over length, and accuracy over the bytes of their state, every seed a dot."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from vgpt.formatting import format_bytes
from vgpt.probe.card import Card, CardRow, TaskCard
from vgpt.report.figures.style import GRAY, Figure, LineStyle, add_legend, named_styles, new_figure

_DOT, _FAINT = 5, 0.45


def draw_card(card: Card) -> list[Figure]:
    """Return a figure for each task of which anything is known; a variant looks the same in all of them."""
    styles = named_styles({label: label for label in card.labels})
    known = [task for task in card.tasks if any(row.points for row in task.rows)]
    return [_draw(task, styles, number) for number, task in enumerate(known, start=1)]


def _draw(task: TaskCard, styles: dict[str, LineStyle], number: int) -> Figure:
    """Draw accuracy over length on the left, and over the state at the training settings on the right."""
    mark = "" if task.conclusive else " (inconclusive)"
    title = f"{task.task}{mark}"
    figure, axes = new_figure(title, 2)
    lengths, states = axes
    handles: dict[str, Any] = {}
    rows = [row for row in task.rows if row.points]
    for row in rows:
        style = styles[row.label]
        handles[style.name] = _over_length(lengths, task, row, style)
        _over_state(states, row, style)
    for axis in axes:
        axis.axhline(task.chance, color=GRAY, linewidth=0.8, linestyle=":")
        axis.set_ylim(-0.03, 1.03)
    _length_axis(lengths, task)
    states.set_xscale("log", base=2)
    states.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
    states.set_xlabel(f"state of one sequence at {task.lengths[0]} tokens, float32")
    note = f"Dots: seeds. Lines: their means. Dotted: chance. Control: {task.control_label}."
    add_legend(figure, handles, note)
    return Figure(f"probe-{number}-{task.task.partition(':')[0]}", title, _alt(task, rows), figure)


def _over_length(axis: Any, task: TaskCard, row: CardRow, style: LineStyle) -> Any:
    """Draw the means over lengths; points of the test of one length are averaged."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for length, point in zip(task.lengths, row.points, strict=True):
        found.setdefault(length, []).append(point.seeds)
    seeds = {
        length: [fmean(values) for values in zip(*points, strict=True)] for length, points in sorted(found.items())
    }
    for length, values in seeds.items():
        axis.plot([length] * len(values), values, style.marker, color=style.color, markersize=_DOT, alpha=_FAINT)
    means = [fmean(values) for values in seeds.values()]
    (line,) = axis.plot(
        list(seeds), means, color=style.color, linestyle=style.dash, marker=style.marker, markersize=3, linewidth=1.4
    )
    return line


def _over_state(axis: Any, row: CardRow, style: LineStyle) -> None:
    point = row.points[0]
    axis.plot(
        [point.state_bytes] * len(point.seeds),
        point.seeds,
        style.marker,
        color=style.color,
        markersize=_DOT,
        alpha=_FAINT,
    )
    axis.plot([point.state_bytes], [point.mean], "_", color=style.color, markersize=14, markeredgewidth=1.6)


def _length_axis(axis: Any, task: TaskCard) -> None:
    lengths = sorted(set(task.lengths))
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    axis.set_xlabel(f"tokens of an instance (trained on {task.lengths[0]:,})")
    axis.set_ylabel("accuracy on the test")


def _alt(task: TaskCard, rows: Sequence[CardRow]) -> str:
    told = ", ".join(
        f"{row.label} {row.points[0].mean:.2f} with {format_bytes(row.points[0].state_bytes)}" for row in rows
    )
    state = f"control {task.control_label} {'passed' if task.conclusive else 'below what it must reach'}"
    return f"{task.summary}. Accuracy and state at the training settings: {told}; {state}."
