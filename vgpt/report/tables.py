"""A comparison as tables for people: quality, cost of training, size and cache; then what they rest on."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.report.architecture import cache_bytes_at
from vgpt.report.captions import audit_lines, confound_lines, noise_caption, peak_caption
from vgpt.report.comparison import Comparison
from vgpt.report.grouping import Row
from vgpt.report.numbers import (
    BITS,
    DASH,
    FLOPS,
    KV_CONTEXT,
    KV_MEASURED,
    KV_TOKEN,
    LOSS,
    LOSS_SE,
    MEMORY,
    MFU,
    MFU_PALM,
    PARAMS,
    PERPLEXITY,
    SPEED,
    cache_disagrees,
    change,
    relative_change,
    shown_bytes,
    shown_change,
    shown_count,
    shown_percent,
    shown_relative,
    stat,
)

_LABEL_WIDTH = 26
_Cell = Text | str


def tables(comparison: Comparison) -> list[RenderableType]:
    """Return what to print, in order. Names of runs and settings are never read as markup.

    Each table fits 80 columns with short labels; longer ones wrap.
    """
    rows = comparison.rows
    if not rows:
        return []
    return [
        _quality(comparison),
        noise_caption(rows),
        Text(),
        _cost(rows),
        peak_caption(rows),
        Text(),
        _size(comparison),
        Text(),
        *audit_lines(comparison.audit),
        *confound_lines(rows),
    ]


def display_label(label: str) -> str:
    """Return a row's label with spaces, so that a long one can wrap: `gqa n_kv_head=2`."""
    return label.replace(":", " ", 1).replace(",", " ")


def _quality(comparison: Comparison) -> Table:
    rows, baseline = comparison.rows, comparison.rows[0]
    several = {len(row.runs) > 1 for row in rows}
    spread = {frozenset({False}): "± eval SE", frozenset({True}): "± sd of seeds"}.get(frozenset(several), "± noise")
    table = _table("Quality", ["seeds", f"val loss\n{spread}", "Δ", "perplexity", "bits/byte"], flags=True)
    for row in rows:
        _add(
            table,
            row,
            str(len(row.runs)),
            _loss(row, mixed=len(several) > 1),
            _change(row, baseline, LOSS),
            _mean(row, PERPLEXITY, lambda value: f"{value:.2f}"),
            _mean(row, BITS, lambda value: f"{value:.4f}"),
            Text("; ".join(_flags(comparison, row)), "yellow"),
        )
    return table


def _cost(rows: Sequence[Row]) -> Table:
    baseline = rows[0]
    columns = ["train FLOPs\nper token", "Δ", "tokens/s", "Δ", "MFU", "MFU\nPaLM", "peak\nmemory"]
    table = _table("Cost of training", columns)
    for row in rows:
        _add(
            table,
            row,
            _mean(row, FLOPS, shown_count),
            _relative(row, baseline, FLOPS),
            _mean(row, SPEED, lambda value: f"{value:,.0f}"),
            _relative(row, baseline, SPEED),
            _mean(row, MFU, shown_percent),
            _mean(row, MFU_PALM, shown_percent),
            _mean(row, MEMORY, shown_bytes),
        )
    return table


def _size(comparison: Comparison) -> Table:
    rows, baseline = comparison.rows, comparison.rows[0]
    contexts = sorted({row.runs[0].params.get("block_size", "?") for row in rows})
    context = f"KV at {int(contexts[0]):,}" if len(contexts) == 1 and contexts[0].isdecimal() else "KV at\ncontext"
    columns = ["parameters", "Δ", "KV/token", context, "Δ", "measured", f"KV at {comparison.kv_at:,}"]
    table = _table("Size: parameters, and the KV cache of one sequence", columns)
    for row in rows:
        extrapolated = cache_bytes_at(row.runs[0], comparison.kv_at)
        _add(
            table,
            row,
            _mean(row, PARAMS, shown_count),
            _relative(row, baseline, PARAMS),
            _mean(row, KV_TOKEN, shown_bytes),
            _mean(row, KV_CONTEXT, shown_bytes),
            _relative(row, baseline, KV_CONTEXT),
            _measured(row),
            DASH if extrapolated is None else shown_bytes(extrapolated),
        )
    return table


def _table(title: str, columns: Sequence[str], *, flags: bool = False) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column("attention", max_width=_LABEL_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    if flags:
        table.add_column("flags", overflow="fold")
    return table


def _add(table: Table, row: Row, *cells: _Cell) -> None:
    texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
    table.add_row(Text(display_label(row.label)), *texts)


def _loss(row: Row, *, mixed: bool) -> str:
    loss = stat(row, LOSS)
    if loss is None:
        return DASH
    if loss.sd is not None:
        noise, kind = loss.sd, " sd"
    else:
        error = stat(row, LOSS_SE)
        if error is None:
            return f"{loss.mean:.4f}"
        noise, kind = error.mean, " eval SE"
    return f"{loss.mean:.4f} ±{noise:.4f}{kind if mixed else ''}"


def _flags(comparison: Comparison, row: Row) -> list[str]:
    flags: list[str] = []
    if names := comparison.audit.flagged.get(row.label):
        first, *others = names
        flags.append(f"≠ {first} +{len(others)}" if others else f"≠ {first}")
    if len(row.runs) < row.wanted:
        flags.append(f"{len(row.runs)} of {row.wanted} seeds")
    if cache_disagrees(row):
        flags.append("KV cache ≠ formula")
    return flags


def _measured(row: Row) -> Text:
    measured = stat(row, KV_MEASURED)
    if measured is None:
        return Text(DASH)
    if cache_disagrees(row):
        return Text(f"≠ {shown_bytes(measured.mean)}", "bold red")
    return Text("✓", "green")


def _mean(row: Row, metric: str, show: Callable[[float], str]) -> str:
    found = stat(row, metric)
    return DASH if found is None else show(found.mean)


def _change(row: Row, baseline: Row, metric: str) -> str:
    difference = change(row, baseline, metric)
    return DASH if row is baseline or difference is None else shown_change(difference)


def _relative(row: Row, baseline: Row, metric: str) -> str:
    difference = relative_change(row, baseline, metric)
    return DASH if row is baseline or difference is None else shown_relative(difference)
