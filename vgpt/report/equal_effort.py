"""What was made equal before variants were compared, as tables: budgets, and the effort of tuning learning rates."""

import math
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.compare.audit.budgets import budget_of
from vgpt.compare.comparison import Comparison, LearningRateSweep, Tuned
from vgpt.formatting import DASH, wrapping_label
from vgpt.report.layout import add_row, new_table

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


def sweep_table(sweep: LearningRateSweep) -> list[RenderableType]:
    """Return the table with its captions."""
    table = Table(title="Learning rates: loss of the tuning seeds by rate", title_justify="left", title_style="bold")
    table.add_column("attention", min_width=11, overflow="fold")
    for rate in sweep.rates:
        table.add_column(f"{rate:g}", justify="right", no_wrap=True)
    for name in ("chosen", "loss", "at common"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sweep.variants:
        table.add_row(Text(wrapping_label(one.label)), *(_tried(one, rate) for rate in sweep.rates), *_outcome(one))
    seeds = ", ".join(sweep.tuning_seeds) or "none yet"
    text = (
        f"The learning rate was tuned for each variant, with equal effort: the same {len(sweep.rates)} rates, budget "
        f"and tuning seeds ({seeds}). Every other figure is of the reported seeds, which chose nothing; "
        f"at common: at {sweep.common:g}, untuned."
    )
    edges = [
        Text(f"{one.label}: the best rate is the {one.edge} of the grid; a better one may lie beyond", "bold yellow")
        for one in sweep.variants
        if one.edge
    ]
    return [table, Text(text, "dim"), *edges, Text()]


def sweep_json(sweep: LearningRateSweep) -> dict[str, Any]:
    """Return the sweep as plain data; a rate at which a run diverged has no loss and is named apart."""
    return {
        "rates": list(sweep.rates),
        "common": sweep.common,
        "tuning_seeds": list(sweep.tuning_seeds),
        "variants": [
            {
                "label": one.label,
                "tuning": [{"lr": rate, "loss": _finite(loss)} for rate, loss in one.tuning.items()],
                "diverged": [rate for rate, loss in one.tuning.items() if loss == math.inf],
                "chosen": one.chosen,
                "loss": one.at_chosen,
                "loss_at_common": one.at_common,
                "edge": one.edge or None,
            }
            for one in sweep.variants
        ],
    }


def _tried(one: Tuned, rate: float) -> Text:
    loss = one.tuning[rate]
    if loss is None:
        return Text(DASH)
    if loss == math.inf:
        return Text("diverged", "red")
    return Text(f"{loss:.4f}", "bold" if rate == one.chosen else "")


def _outcome(one: Tuned) -> list[Text]:
    chosen = DASH if one.chosen is None else f"{one.chosen:g}{' !' if one.edge else ''}"
    return [Text(chosen), *(Text(DASH if loss is None else f"{loss:.4f}") for loss in (one.at_chosen, one.at_common))]


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
