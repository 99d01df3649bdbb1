"""The learning rates of a sweep as a table: what each variant was tried at, what was chosen, what it gained."""

import math
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.report.layout import display_label
from vgpt.report.numbers import DASH
from vgpt.report.sweep import Sweep, Tuned


def sweep_table(sweep: Sweep) -> list[RenderableType]:
    """Return the table with its captions."""
    table = Table(title="Learning rates: loss of the tuning seeds by rate", title_justify="left", title_style="bold")
    table.add_column("attention", min_width=11, overflow="fold")
    for rate in sweep.rates:
        table.add_column(f"{rate:g}", justify="right", no_wrap=True)
    for name in ("chosen", "loss", "at common"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sweep.variants:
        table.add_row(Text(display_label(one.label)), *(_tried(one, rate) for rate in sweep.rates), *_outcome(one))
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


def sweep_json(sweep: Sweep) -> dict[str, Any]:
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
