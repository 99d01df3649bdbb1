"""How the cache of each variant grows with the context, from its analytic cost."""

from typing import Any

from vgpt.report.architecture import cache_bytes_at
from vgpt.report.comparison import Comparison
from vgpt.report.figures.style import GREY, Drawn, add_legend, looks, new_figure
from vgpt.report.numbers import shown_bytes

_SHORTEST, _LONGEST = 2**5, 2**17


def draw_caches(comparison: Comparison) -> Drawn | None:
    """Draw bytes of the cache of one sequence over its tokens; None where no variant's cost is known here."""
    contexts = sorted({int(text) for row in comparison.rows if (text := _context(row.runs[0].params)).isdecimal()})
    last = max([_LONGEST, comparison.kv_at, *contexts])
    powers = [2**power for power in range(40) if _SHORTEST <= 2**power <= last]
    tokens = sorted({*powers, *(3 * power // 2 for power in powers[:-1]), *contexts, comparison.kv_at})
    look, handles = looks(comparison.rows), dict[str, Any]()
    title = "KV cache of one sequence over its context"
    figure, (axis,) = new_figure(title, 1)
    ends: list[str] = []
    for number, row in enumerate(comparison.rows):
        sizes = [cache_bytes_at(row.runs[0], count) for count in tokens]
        known = [size for size in sizes if size is not None]
        if len(known) < len(tokens):
            continue
        style = look[row.label]
        # Lines of equal caches lie on each other: later ones are thinner, so that all are seen.
        width = max(1.2, 4.0 - 0.6 * number)
        (handles[style.name],) = axis.plot(
            tokens,
            known,
            color=style.colour,
            linestyle=style.dash,
            linewidth=width,
            marker=style.marker,
            markevery=[tokens.index(power) for power in powers[number % 2 :: 3]],
            markersize=5,
        )
        ends.append(f"{style.name} {shown_bytes(known[-1])}")
    if not handles:
        return None
    for context in contexts:
        axis.axvline(context, color=GREY, linewidth=0.8, linestyle=":")
        axis.text(
            context,
            0.99,
            f" trained at {context:,}",
            color=GREY,
            fontsize=8,
            va="top",
            transform=axis.get_xaxis_transform(),
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks([power for power in powers if power.bit_length() % 2 == 0])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: shown_bytes(value))
    axis.set_xlabel("tokens of context")
    axis.set_ylabel("bytes of all layers (analytic)")
    add_legend(figure, handles)
    return Drawn("cache", title, f"At {tokens[-1]:,} tokens: {', '.join(ends)}.", figure)


def _context(params: dict[str, str]) -> str:
    return params.get("block_size", "")
