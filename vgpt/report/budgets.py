"""The table of matched budgets: what was made equal, how near it came, and what the difference was before."""

from rich.console import RenderableType
from rich.text import Text

from vgpt.report.comparison import Comparison
from vgpt.report.layout import add_row, new_table
from vgpt.report.matched import budget_of
from vgpt.report.numbers import DASH

_WIDTH_COLUMNS = ["F", "F raw", "params\nΔ", "raw Δ", "FLOPs\nΔ", "raw Δ", "cache\nΔ"]
_CACHE_COLUMNS = ["cache\nΔ", "params\nΔ", "FLOPs\nΔ"]


def matched_budgets(comparison: Comparison) -> list[RenderableType]:
    """Return the table with its caption; nothing where no budget was matched."""
    match = comparison.match
    if match is None or not comparison.rows:
        return []
    of_cache = match.rule == "cache"
    title = "KV cache matched" if of_cache else f"MLP width matched: {match.rule}"
    columns = _CACHE_COLUMNS if of_cache else _WIDTH_COLUMNS
    table = new_table(f"{title}, to {match.to}", columns)
    for row in comparison.rows:
        found = budget_of(row.runs[0], match)
        if found is None:
            add_row(table, row, *[DASH] * len(columns))
        elif of_cache:
            add_row(table, row, *map(_share, (found.cache, found.params, found.flops)))
        else:
            shares = (found.params, found.raw_params, found.flops, found.raw_flops, found.cache)
            add_row(table, row, f"{found.width:,}", f"{found.raw_width:,}", *map(_share, shares))
    widths = "" if of_cache else "F: hidden width of the MLP; raw: as it was before matching. "
    text = (
        f"{widths}Δ: against {match.to}, in attention and MLP of all layers; embeddings, positions, norms and output "
        "layer are the same everywhere and not counted. The cache is that of the context length, in bfloat16."
    )
    return [table, Text(text, "dim"), Text()]


def _share(value: float) -> str:
    return "=" if value == 0 else f"{100 * value:+.2f}%"
