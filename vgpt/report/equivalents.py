"""What variants are worth in training of the baseline: a table, sentences, and plain data."""

import math
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.equivalents import BudgetRow, Equivalents
from vgpt.compare.metrics import LOSS, stat
from vgpt.compare.rows import Row
from vgpt.compare.statistics.seeds import ALPHA
from vgpt.compare.worth import Value, worth
from vgpt.formatting import DASH, format_count
from vgpt.report.layout import add_row, new_table
from vgpt.settings.compare import Worth
from vgpt.tracking.schema import Metric

_UNITS: dict[Worth, str] = {"tokens": "tokens", "flops": "training FLOPs", "seconds": "training time"}


def equivalent_tables(comparison: Comparison) -> list[RenderableType]:
    """Return the tables with their caption; nothing where nobody asked."""
    found = comparison.equivalents
    if found is None or len(comparison.rows) < 2:
        return []
    axes: list[Worth] = ["tokens"] if found.axis == "tokens" else ["tokens", found.axis]
    columns = [part for axis in axes for part in (_UNITS[axis].replace(" ", "\n"), "95%")]
    table = new_table(f"Training of {comparison.rows[0].title} that a loss is worth", columns, words="note")
    for row in comparison.rows[1:]:
        values = [value for axis in axes if (value := value_of(comparison, row, axis)) is not None]
        notes = dict.fromkeys(value.why for value in values if value.why)
        add_row(table, row, *(cell for value in values for cell in (_ratio(value), _interval(value))), "; ".join(notes))
    lines = [Text(line) for line in equivalent_lines(comparison)]
    return [table, *lines, Text(_caption(comparison, found), "dim"), Text()]


def equivalent_lines(comparison: Comparison) -> list[str]:
    """Return what may be said, one sentence per row that has an interval: `mla is worth 1.17x [1.12, 1.23] tokens`."""
    found = comparison.equivalents
    if found is None:
        return []
    lines: list[str] = []
    for row in comparison.rows[1:]:
        value = value_of(comparison, row, found.axis)
        if value is not None and value.ratio is not None and None not in (value.low, value.high):
            lines.append(f"{row.title} is worth {_ratio(value)} {_interval(value)} {_UNITS[found.axis]}")
    return lines


def value_of(comparison: Comparison, row: Row, axis: Worth) -> Value | None:
    """Return what a row is worth; None for the baseline, and where nobody asked."""
    one = comparison.equivalents.of(row.label) if comparison.equivalents else None
    return None if one is None else worth(comparison, row, one, axis)


def budget_points(found: Equivalents) -> list[tuple[float, float, float | None, float | None]]:
    """Return factor, mean loss, tokens and spread over seeds of the baseline's budgets that are on record, rising."""
    return [
        (one.factor, loss.mean, tokens.mean if tokens else None, loss.sd)
        for one in found.budgets
        if one.row is not None and (loss := stat(one.row, LOSS)) is not None
        for tokens in [stat(one.row, Metric.TRAIN_TOKENS)]
    ]


def equivalents_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return everything as plain data; None where nobody asked."""
    found = comparison.equivalents
    if found is None:
        return None
    return {
        "axis": found.axis,
        "level": 0.95,
        "family": found.family,
        "misfit": found.misfit,
        "bend_p": found.bend_p,
        "conditions_equal": found.audit.equal,
        "budgets": [_budget_json(one) for one in found.budgets],
        "rows": [
            {
                "label": row.label,
                "seeds": one.seeds,
                "method": one.method,
                "add": one.add,
                **{axis: vars(worth(comparison, row, one, axis)) for axis in _UNITS},
            }
            for row in comparison.rows[1:]
            if (one := found.of(row.label)) is not None
        ],
    }


def _budget_json(one: BudgetRow) -> dict[str, Any]:
    runs = one.row.runs if one.row else ()
    losses = [loss if math.isfinite(loss := run.metrics.get(LOSS, math.nan)) else None for run in runs]
    return {
        "factor": one.factor,
        "tokens": tokens.mean if one.row and (tokens := stat(one.row, Metric.TRAIN_TOKENS)) else None,
        "runs": [run.run_name for run in runs],
        "seeds": [run.seed for run in runs],
        "losses": losses,
    }


def _ratio(value: Value) -> str:
    return DASH if value.ratio is None else f"{value.ratio:.2f}x"


def _interval(value: Value) -> str:
    if value.low is None and value.high is None:
        return DASH
    low, high = ("..." if end is None else f"{end:.2f}" for end in (value.low, value.high))
    return f"[{low}, {high}]"


def _caption(comparison: Comparison, found: Equivalents) -> str:
    name, points = comparison.rows[0].title, budget_points(found)
    tokens = [format_count(one) for _, _, one, _ in points if one is not None]
    losses = ", ".join(f"{loss:.4f} at {factor:.3g}x" for factor, loss, _, _ in points)
    schedules = ", each with a schedule of its own length" + ", all else equal" * found.audit.equal
    of_seeds = f", trained on {tokens[0]} to {tokens[-1]} tokens{schedules}" if tokens else ""
    family = f", joint for {found.family} rows" if found.family > 1 else ""
    misfit = ""
    if found.misfit is not None:
        misfit = f" The budgets lie off the fitted curve by at most {found.misfit:.1%} of the budget"
        shown = found.bend_p is not None and found.bend_p < ALPHA
        misfit += ", more than the seeds' noise, which the intervals do not know of." if shown else "."
    return (
        f"How many times its training {name} would need to reach the loss of a row: {losses}{of_seeds}. Read from a "
        f"quadratic of log loss over log budget; the 95% intervals hold the noise of seeds on both sides and of the "
        f"evaluation{family}.{misfit}"
    )
