"""The breakdowns of one run as tables and plain data: what `vgpt eval` shows of them."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.formatting import DASH, format_percent
from vgpt.report.layout import plain_columns, sparkline
from vgpt.tracking.breakdowns.record import LENGTHS, POSITIONS, REACH, RECALL, TEXT, Breakdown, Part

TITLES = {
    POSITIONS: "Loss by position",
    RECALL: "Recall: repeated bigrams",
    LENGTHS: "Loss by length of the window, over the same text",
    REACH: "Loss by position in the longest windows",
    TEXT: "Loss on a text",
}
AXES = {
    POSITIONS: "tokens of context",
    RECALL: "tokens",
    LENGTHS: "tokens in a window",
    REACH: "tokens of context",
    TEXT: "tokens",
}
_SPARKS = 24


def breakdown_tables(found: Sequence[Breakdown]) -> list[RenderableType]:
    """Return a table of each breakdown with a line of what it rests on."""
    shown = [one for one in found if one.kind != TEXT]
    return [part for one in shown for part in (Text(), _table(one), *_captions(one))]


def _table(one: Breakdown) -> Table:
    # Every length is evaluated on the same tokens: they have no shares.
    shares = one.kind != LENGTHS
    columns = [AXES[one.kind], "loss", "± SE", *(["share of tokens"] if shares else [])]
    table = plain_columns(TITLES[one.kind], columns)
    for part in one.parts:
        share = [format_percent(part.tokens / max(1, one.tokens))] if shares else []
        table.add_row(_name(one, part), _figure(part.loss), _figure(part.loss_se), *share)
    return table


def _name(one: Breakdown, part: Part) -> str:
    beyond = one.kind in (LENGTHS, REACH) and part.at > one.block_size
    return f"{part.name} *" if beyond else part.name


def _captions(one: Breakdown) -> list[Text]:
    windows, _, rest = one.windows.partition("x")
    length = rest.partition(":")[0]
    said = f"{int(windows):,} windows of {length} tokens of {one.text}; SE: standard error over these windows."
    lines = [Text(said, "dim")]
    if one.kind == RECALL:
        lines.append(Text("repeated: tokens that end a bigram which stood in the window before", "dim"))
    if one.kind in (POSITIONS, REACH):
        losses = [part.loss for part in one.parts]
        lines.append(Text(f"{sparkline(losses, _SPARKS)}  from the first to the last span", "dim"))
    if one.kind in (LENGTHS, REACH) and any(part.at > one.block_size for part in one.parts):
        lines.append(Text(f"* beyond the {one.block_size:,} tokens of training", "dim"))
    if one.kind == LENGTHS:
        longest = one.parts[-1].at
        cut = [part.name for part in one.parts if longest % part.at]
        if cut:
            lines.append(Text(f"{', '.join(cut)}: no divisor of {longest}; the rest of each window is left out", "dim"))
    return lines


def breakdowns_json(found: Sequence[Breakdown]) -> dict[str, Any]:
    """Return breakdowns as plain data by kind; a figure that is no finite number is null."""
    return {one.kind: _as_json(one) for one in found}


def _as_json(one: Breakdown) -> dict[str, Any]:
    total = max(1, one.tokens)
    parts = [
        {
            "name": part.name,
            "at": part.at,
            "tokens": part.tokens,
            "share": None if one.kind == LENGTHS else part.tokens / total,
            "loss": _finite(part.loss),
            "loss_se": _finite(part.loss_se),
        }
        for part in one.parts
    ]
    beyond = one.beyond
    return {
        "windows": one.windows,
        "count": len(one.parts[0].losses),
        "text": one.text,
        "trained_on": one.block_size,
        "parts": parts,
        **({"beyond": {"loss": beyond.loss, "loss_se": _finite(beyond.loss_se)}} if beyond else {}),
    }


def _figure(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else DASH


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
