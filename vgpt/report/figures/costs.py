"""Loss against what it costs, the Pareto front marked, and how the cache of each variant grows with the context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vgpt.compare.architecture import cache_bytes_at
from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import DECODE, FLOPS, KV_CONTEXT, LOSS, stat
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import RowStatistics
from vgpt.formatting import format_bytes, format_count, format_milliseconds
from vgpt.report.figures.style import GRAY, Figure, LineStyle, add_legend, line_styles, new_figure

_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    KV_CONTEXT: ("KV cache of one sequence at the context length", format_bytes),
    FLOPS: ("training FLOPs per token", format_count),
    DECODE: ("time of a decoding step at the context length, one sequence", format_milliseconds),
}
"""What the loss is shown against: metric -> (label of its axis, how its values are read)."""


@dataclass(frozen=True)
class _Point:
    row: Row
    cost: float
    loss: float
    half_width: float


def draw_tradeoffs(comparison: Comparison) -> Figure | None:
    """Draw validation loss against each cost that two rows or more have on record; None where there is none.

    A row under other conditions than the baseline's is hollow and stands on no front, unless that was forced.
    """
    panels = {metric: points for metric in _COSTS if len(points := _points(comparison, metric)) > 1}
    if not panels:
        return None
    title = "Validation loss against cost"
    figure, axes = new_figure(title, len(panels))
    styles, handles = line_styles(comparison.rows), dict[str, Any]()
    fair = _fair(comparison)
    alt: list[str] = []
    for axis, (metric, points) in zip(axes, panels.items(), strict=True):
        label, show = _COSTS[metric]
        front = pareto_front([(one.cost, one.loss) for one in points if one.row.label in fair])
        _draw(axis, points, front, fair, styles, handles)
        axis.set_xlabel(label)
        costs = [one.cost for one in points]
        if min(costs) > 0 and max(costs) / min(costs) > 8:
            _by_factors(axis, costs)
        axis.xaxis.set_major_formatter(lambda value, _, show=show: show(value))
        named = [styles[one.row.label].name for one in points if (one.cost, one.loss) in front]
        alt.append(f"{label}: on the front {', '.join(named) or 'none'}")
    axes[0].set_ylabel("validation loss (nats per token)")
    add_legend(figure, handles, _note(comparison, [one for points in panels.values() for one in points], fair))
    return Figure("tradeoffs", title, f"{'; '.join(alt)}.", figure)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, loss) that no other point beats in one and equals or beats in the other, by rising cost."""
    front = {
        one for one in points if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in points)
    }
    return sorted(front)


def _draw(
    axis: Any,
    points: Sequence[_Point],
    front: Sequence[tuple[float, float]],
    fair: frozenset[str],
    styles: dict[str, LineStyle],
    handles: dict[str, Any],
) -> None:
    if len(front) > 1:
        costs, losses = zip(*front, strict=True)
        axis.step(costs, losses, where="post", color=GRAY, linewidth=1.0, linestyle="--", zorder=1)
    for one in points:
        style = styles[one.row.label]
        marked = (one.cost, one.loss) in front and one.row.label in fair
        bar = axis.errorbar(
            one.cost,
            one.loss,
            yerr=one.half_width or None,
            color=style.color,
            marker=style.marker,
            markersize=8,
            markerfacecolor=style.color if one.row.label in fair else "white",
            linestyle="none",
            elinewidth=1.2,
            capsize=3,
            zorder=3,
        )
        if marked:
            axis.plot(one.cost, one.loss, marker="o", markersize=15, color="none", markeredgecolor=GRAY, zorder=2)
        handles.setdefault(style.name, bar)


def _points(comparison: Comparison, metric: str) -> list[_Point]:
    found: list[_Point] = []
    for row, statistics in zip(comparison.rows, comparison.statistics, strict=True):
        cost, loss = stat(row, metric), stat(row, LOSS)
        if cost is not None and loss is not None:
            half = statistics.interval.half_width if statistics.interval else 0.0
            found.append(_Point(row, cost.mean, _level(comparison, row, statistics) or loss.mean, half))
    return found


def _level(comparison: Comparison, row: Row, statistics: RowStatistics) -> float | None:
    """Return where a row with other seeds than the baseline stands: its paired difference above the baseline."""
    baseline, one = stat(comparison.rows[0], LOSS), statistics.difference
    if baseline is None or one is None or row.seeds == comparison.rows[0].seeds:
        return None
    return baseline.mean + one.delta


def _fair(comparison: Comparison) -> frozenset[str]:
    """Return the labels of the rows that may be ranked: under the conditions and at the point of the baseline.

    Conditions may be forced; points and lost seeds may not.
    """
    lost = {one.label for one in comparison.statistics if one.lost}
    flagged = {*lost, *comparison.unequal_points, *(() if comparison.force else comparison.audit.flagged)}
    if not comparison.rows or comparison.rows[0].label in flagged:
        return frozenset()
    return frozenset(row.label for row in comparison.rows if row.label not in flagged)


def _by_factors(axis: Any, costs: Sequence[float]) -> None:
    """Scale an axis by powers of two, with ticks that people can read."""
    axis.set_xscale("log", base=2)
    low, high = min(costs), max(costs)
    ticks = [2.0**power for power in range(-20, 80) if low / 2 <= 2.0**power <= high * 2]
    axis.set_xticks(ticks[:: max(1, -(-len(ticks) // 5))])
    axis.minorticks_off()


def _note(comparison: Comparison, points: Sequence[_Point], fair: frozenset[str]) -> str:
    parts = ["ring and dashed line: Pareto front of the means (nothing is both cheaper and better)"]
    if any(one.half_width for one in points):
        parts.append("bars: 95% interval over seeds")
    else:
        parts.append("one seed each: no seed noise known")
    if len({row.seeds for row in comparison.rows}) > 1:
        parts.append("rows with other seeds: at their difference over shared seeds")
    if len(fair) < len(comparison.rows):
        reasons = ["unequal conditions"]
        reasons += ["unequal points"] * bool(comparison.unequal_points)
        reasons += ["diverged seeds"] * any(bool(one.lost) for one in comparison.statistics)
        parts.append(f"hollow: {' or '.join(reasons)}, not ranked")
    elif comparison.force and comparison.audit.flagged:
        parts.append("FORCED across unequal conditions")
    return "; ".join(parts)


_SHORTEST, _LONGEST = 2**5, 2**17


def draw_caches(comparison: Comparison) -> Figure | None:
    """Draw bytes of the cache of one sequence over its tokens; None where no variant's cost is known here."""
    contexts = sorted({int(text) for row in comparison.rows if (text := _context(row.runs[0].params)).isdecimal()})
    last = max([_LONGEST, comparison.kv_at, *contexts])
    powers = [2**power for power in range(40) if _SHORTEST <= 2**power <= last]
    tokens = sorted({*powers, *(3 * power // 2 for power in powers[:-1]), *contexts, comparison.kv_at})
    styles, handles = line_styles(comparison.rows), dict[str, Any]()
    title = "KV cache of one sequence over its context"
    figure, (axis,) = new_figure(title, 1)
    ends: list[str] = []
    for number, row in enumerate(comparison.rows):
        sizes = [cache_bytes_at(row.runs[0], count) for count in tokens]
        known = [size for size in sizes if size is not None]
        if len(known) < len(tokens):
            continue
        style = styles[row.label]
        # Lines of equal caches lie on each other: later ones are thinner, so that all are seen.
        width = max(1.2, 4.0 - 0.6 * number)
        (handles[style.name],) = axis.plot(
            tokens,
            known,
            color=style.color,
            linestyle=style.dash,
            linewidth=width,
            marker=style.marker,
            markevery=[tokens.index(power) for power in powers[number % 2 :: 3]],
            markersize=5,
        )
        ends.append(f"{style.name} {format_bytes(known[-1])}")
    if not handles:
        return None
    for context in contexts:
        axis.axvline(context, color=GRAY, linewidth=0.8, linestyle=":")
        axis.text(
            context,
            0.99,
            f" trained at {context:,}",
            color=GRAY,
            fontsize=8,
            va="top",
            transform=axis.get_xaxis_transform(),
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks([power for power in powers if power.bit_length() % 2 == 0])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: format_bytes(value))
    axis.set_xlabel("tokens of context")
    axis.set_ylabel("bytes of all layers (analytic)")
    add_legend(figure, handles)
    return Figure("cache", title, f"At {tokens[-1]:,} tokens: {', '.join(ends)}.", figure)


def _context(params: dict[str, str]) -> str:
    return params.get("block_size", "")
