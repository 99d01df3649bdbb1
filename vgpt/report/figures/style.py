"""How all figures look, and how they become files: colors that color-blind readers tell apart, one legend below."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vgpt.compare.rows import Row, row_names

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, "Color Universal Design", without the yellow, which white paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
GRAY, LIGHT = "#6b6b6b", "#e3e3e3"
_LONGEST_NAME = 44


@dataclass(frozen=True)
class LineStyle:
    """How a row is drawn in every figure: beyond seven rows colors come again with another marker and dash."""

    name: str
    color: str
    marker: str
    dash: str


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes:
        name: of its files, without ending.
        title: what it shows.
        alt: what a reader who cannot see it should know.
        figure: of matplotlib.
    """

    name: str
    title: str
    alt: str
    figure: Any


def line_styles(rows: Sequence[Row]) -> dict[str, LineStyle]:
    """Return the look of each row by its label."""
    return named_styles(row_names(rows))


def named_styles(names: Mapping[str, str]) -> dict[str, LineStyle]:
    """Return a look for each of these by its label: label -> name in legends."""
    found: dict[str, LineStyle] = {}
    for number, (label, name) in enumerate(names.items()):
        turn = number // len(COLORS)
        found[label] = LineStyle(
            _legible(name),
            COLORS[number % len(COLORS)],
            MARKERS[(number + turn) % len(MARKERS)],
            DASHES[turn % len(DASHES)],
        )
    return found


def new_figure(title: str, panels: int, *, share_loss: bool = True) -> tuple[Any, Sequence[Any]]:
    """Return an empty figure with panels beside each other, which share their loss axis where asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, 4.6 * panels), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, parse_math=False)
    axes = figure.subplots(1, panels, sharey=share_loss, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=LIGHT, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, axes


def add_legend(figure: Any, handles: Mapping[str, Any], note: str = "") -> None:
    """Put one legend below all panels, headed by what the marks mean. Names are never read as formulas."""
    width = max((len(name) for name in handles), default=1)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 11 / (width + 6))))
    legend = figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        title=note or None,
        title_fontsize=8,
    )
    for text in [*legend.get_texts(), legend.get_title()]:
        text.set_parse_math(False)
    legend.get_title().set_color(GRAY)
    legend.set_alignment("center")


def as_png(drawn: Figure) -> bytes:
    """Return a figure as a PNG."""
    return _saved(drawn, "png", dpi=150, metadata={"Software": None})


def as_svg(drawn: Figure) -> str:
    """Return a figure as a document of SVG whose text stays text, without date, and naming nothing outside itself."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawn.name}):
        text = _saved(drawn, "svg", metadata={"Date": None}).decode()
    text = re.sub(r"<!DOCTYPE.*?>\s*", "", text, count=1, flags=re.DOTALL)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)


def _saved(drawn: Figure, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A name may hold letters that the font lacks: they become boxes in a PNG, and stay letters in SVG.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        drawn.figure.savefig(content, format=kind, **options)
    return content.getvalue()


def _legible(name: str) -> str:
    """Return a name for a legend, which would pass over one that begins with an underscore."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
    return f" {short}" if short.startswith("_") else short
