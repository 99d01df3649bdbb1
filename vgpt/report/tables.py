"""A comparison as tables for people: quality, cost of training, size and cache; then what they rest on."""

from collections.abc import Callable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.compare.architecture import cache_bytes_at
from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import (
    BITS,
    FLOPS,
    KV_CONTEXT,
    KV_MEASURED,
    KV_TOKEN,
    LOSS,
    MEMORY,
    PARAMS,
    PERPLEXITY,
    cache_disagrees,
    change,
    of_process,
    relative_change,
    stat,
)
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import RowStatistics
from vgpt.formatting import (
    DASH,
    format_bytes,
    format_change,
    format_count,
    format_relative,
)
from vgpt.report.breakdowns.tables import breakdown_tables
from vgpt.report.captions import audit_lines, confound_lines, flags, memory_caption, noise_caption
from vgpt.report.curve_tables import snapshot_table
from vgpt.report.equal_effort import matched_budgets, sweep_table
from vgpt.report.equivalents import equivalent_tables
from vgpt.report.layout import add_row, new_table
from vgpt.report.sealing import sealing_lines
from vgpt.report.significance import significance
from vgpt.report.speed_tables import measured_tables as speed_tables
from vgpt.report.speed_tables import speed_table
from vgpt.report.staircase import staircase_tables
from vgpt.report.study_tables import power_tables
from vgpt.report.suites.tables import suite_tables


def tables(comparison: Comparison) -> list[RenderableType]:
    """Return what to print, in order. Names of runs and settings are never read as markup.

    Each table fits 80 columns: labels and flags wrap, numbers do not.
    """
    if not comparison.rows:
        return []
    below = [*audit_lines(comparison.audit), *confound_lines(comparison.rows), *sealing_lines(comparison)]
    return [*number_tables(comparison), *below]


def number_tables(comparison: Comparison) -> list[RenderableType]:
    """Return the tables with their captions, without what they rest on."""
    rows = comparison.rows
    if not rows:
        return sweep_table(comparison.sweep) if comparison.sweep and comparison.sweep.variants else []
    return [
        *snapshot_table(comparison),
        _quality(comparison),
        noise_caption(comparison),
        Text(),
        *(sweep_table(comparison.sweep) if comparison.sweep else []),
        *staircase_tables(comparison),
        *significance(comparison),
        *power_tables(comparison),
        *equivalent_tables(comparison),
        *breakdown_tables(comparison),
        *suite_tables(comparison),
        *(speed_tables(comparison) if comparison.speeds is not None else [_cost(rows), *memory_caption(rows)]),
        Text(),
        *([] if comparison.speeds is not None else speed_table(rows)),
        _size(comparison),
        Text(),
        *matched_budgets(comparison),
    ]


def _quality(comparison: Comparison) -> Table:
    rows, baseline = comparison.rows, comparison.rows[0]
    several = {len(row.runs) > 1 for row in rows}
    spread = {frozenset({False}): "± eval SE", frozenset({True}): "± sd of seeds"}.get(frozenset(several), "± noise")
    marks = [Text("; ".join(flags(comparison, row)), "yellow") for row in rows]
    columns = ["seeds", f"val loss\n{spread}", "Δ", "perplexity", "bits/byte"]
    table = new_table("Quality", columns, words="flags" if any(marks) else "")
    for row, found, flag in zip(rows, comparison.statistics, marks, strict=True):
        add_row(
            table,
            row,
            str(len(row.runs)),
            _loss(row, found, mixed=len(several) > 1),
            _change(row, baseline, LOSS),
            _mean(row, PERPLEXITY, lambda value: f"{value:.2f}"),
            _mean(row, BITS, lambda value: f"{value:.4f}"),
            *([flag] if any(marks) else []),
        )
    return table


def _cost(rows: Sequence[Row]) -> Table:
    baseline = rows[0]
    columns = ["FLOPs\nper token", "Δ", "memory of\ntraining"]
    table = new_table("Cost of training", columns)
    for row in rows:
        add_row(
            table,
            row,
            _mean(row, FLOPS, format_count),
            _relative(row, baseline, FLOPS),
            _mean(row, MEMORY, format_bytes) + ("*" if of_process(row) else ""),
        )
    return table


def _size(comparison: Comparison) -> Table:
    rows, baseline = comparison.rows, comparison.rows[0]
    contexts = sorted({row.runs[0].params.get("block_size", "?") for row in rows})
    context = f"{int(contexts[0]):,}" if len(contexts) == 1 and contexts[0].isdecimal() else "context"
    columns = ["params", "Δ", "KV per\ntoken", f"KV at\n{context}", "Δ", "measured", f"KV at\n{comparison.kv_at:,}"]
    table = new_table("Size: parameters, and the KV cache of one sequence", columns)
    for row in rows:
        extrapolated = cache_bytes_at(row.runs[0], comparison.kv_at)
        add_row(
            table,
            row,
            _mean(row, PARAMS, format_count),
            _relative(row, baseline, PARAMS),
            _mean(row, KV_TOKEN, format_bytes),
            _mean(row, KV_CONTEXT, format_bytes),
            _relative(row, baseline, KV_CONTEXT),
            _measured(row),
            DASH if extrapolated is None else format_bytes(extrapolated),
        )
    return table


def _loss(row: Row, found: RowStatistics, *, mixed: bool) -> str:
    loss = stat(row, LOSS)
    if loss is None:
        return DASH
    if loss.sd is not None:
        noise, kind = loss.sd, " sd"
    else:
        if found.loss_se is None:
            return f"{loss.mean:.4f}"
        noise, kind = found.loss_se, " SE"
    return f"{loss.mean:.4f} ±{noise:.4f}{kind if mixed else ''}"


def _measured(row: Row) -> Text:
    measured = stat(row, KV_MEASURED)
    if measured is None:
        return Text(DASH)
    if cache_disagrees(row):
        return Text(f"≠ {format_bytes(measured.mean)}", "bold red")
    return Text("✓", "green")


def _mean(row: Row, metric: str, show: Callable[[float], str]) -> str:
    found = stat(row, metric)
    return DASH if found is None else show(found.mean)


def _change(row: Row, baseline: Row, metric: str) -> str:
    difference = change(row, baseline, metric)
    return DASH if row is baseline or difference is None else format_change(difference)


def _relative(row: Row, baseline: Row, metric: str) -> str:
    difference = relative_change(row, baseline, metric)
    return DASH if row is baseline or difference is None else format_relative(difference)
