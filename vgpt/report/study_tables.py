"""A study as tables and plain data: its plan, the seeds that a new one takes, and the signs in all its settings."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.statistics.seeds import POWER
from vgpt.formatting import DASH, format_time, wrapping_label
from vgpt.report.layout import add_row, new_table
from vgpt.report.sequential import looks_json
from vgpt.study.plan import Plan
from vgpt.study.power import Need, needs
from vgpt.study.signs import signs
from vgpt.study.study import Answered


def plan_table(plan: Plan) -> Table:
    """Return the plan as a table; what it sums up stands in its caption."""
    table = Table(title="Plan", title_justify="left", title_style="bold", caption=plan.sentence())
    table.caption_justify = "left"
    table.add_column("attention", overflow="fold")
    for column in ("exist", "missing", "begun", "expected time"):
        table.add_column(column, justify="right")
    for item in plan.items:
        numbers = [str(item.there), str(item.missing), str(item.begun)]
        time = format_time(item.seconds) if item.missing else "-"
        table.add_row(*map(Text, [item.name, *numbers, time]))
    return table


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain data; a time that is not known is null."""
    return {
        "exist": plan.there,
        "missing": len(plan.missing),
        "second_stage": list(plan.later) if plan.later[1] else None,
        "seconds": plan.seconds,
        "sequential": looks_json(plan),
        "variants": [vars(item) for item in plan.items],
        "runs": [
            {"attention": wanted.label, "seed": wanted.seed, "command": wanted.command} for wanted in plan.missing
        ],
    }


def power_tables(comparison: Comparison) -> list[RenderableType]:
    """Return the table for the difference that was asked for, with its caption; nothing where none was."""
    delta = comparison.power
    if delta is None or len(comparison.rows) < 2:
        return []
    margin = comparison.known_margin
    columns = ["sd within\npairs", "its 80%\nlimit", "seeds", "seeds at\nthe limit"]
    columns += [f"no worse than\n{margin.text}", "at the\nlimit"] if margin else []
    columns += ["time of\na seed"]
    table = new_table(f"Seeds that a new study takes to show a difference of {delta:g} nats", columns)
    for row, one in zip(comparison.rows[1:], needs(comparison, delta), strict=True):
        cells = [DASH] * len(columns)
        if one is not None:
            cells = [f"{one.sd:.4f}", f"{one.sd_limit:.4f}", _seeds(one.seeds), _seeds(one.seeds_at_limit)]
            cells += [_seeds(one.no_worse), _seeds(one.no_worse_at_limit)] if margin else []
            cells += [DASH if one.seconds is None else format_time(one.seconds)]
        add_row(table, row, *cells)
    text = (
        f"Per variant, with a chance of {POWER:.0%}, if all {len(comparison.rows) - 1} rows get a verdict. The runs "
        "above are the pilot: begin at a seed that none of them has, and do not count them in. The limit is "
        "what the sd may be, with 80% confidence, on so few seeds. none: evaluation noise alone hides it; "
        "more --eval-windows help. Time: training of the row and of the baseline, with one seed each."
    )
    return [table, Text(text, "dim"), Text()]


def power_lines(comparison: Comparison) -> list[str]:
    """Return the same in sentences, for where a format has no place for the table."""
    delta = comparison.power
    if delta is None:
        return []
    found, margin = needs(comparison, delta), comparison.known_margin
    sentences = [
        f"{row.title}: {_seeds(one.no_worse)} seeds ({_hours(one, one.no_worse)}), {_seeds(one.no_worse_at_limit)} to "
        f"be safe ({_hours(one, one.no_worse_at_limit)}), show that an equal variant is no worse than {margin.text}"
        for row, one in zip(comparison.rows[1:], found, strict=True)
        if one is not None and margin is not None
    ]
    return sentences + [
        f"{row.title}: {_seeds(one.seeds)} seeds, {_seeds(one.seeds_at_limit)} to be safe, show a difference of "
        f"{delta:g} nats in a new study; these runs are its pilot, and are not to be counted in"
        for row, one in zip(comparison.rows[1:], found, strict=True)
        if one is not None
    ]


def power_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the same as plain data; None where it was not asked for."""
    if comparison.power is None:
        return None
    found = needs(comparison, comparison.power)
    return {
        "delta": comparison.power,
        "power": POWER,
        "pilot": "the runs of this comparison, which are not to be counted in",
        "rows": [
            {
                "label": row.label,
                "sd": one.sd if one else None,
                "sd_limit": one.sd_limit if one else None,
                "seeds": one.seeds if one else None,
                "seeds_at_limit": one.seeds_at_limit if one else None,
                "no_worse": one.no_worse if one else None,
                "no_worse_at_limit": one.no_worse_at_limit if one else None,
                "seconds_per_seed": one.seconds if one else None,
            }
            for row, one in zip(comparison.rows[1:], found, strict=True)
        ],
    }


def _hours(one: Need, seeds: int | None) -> str:
    time = one.time(seeds)
    return "time not known" if time is None else format_time(time)


def _seeds(seeds: int | None) -> str:
    return "none" if seeds is None else f"{seeds:,}"


def signs_table(answers: Sequence[Answered]) -> list[RenderableType]:
    """Return the table with its caption; nothing where there is but one comparison."""
    found = signs(answers)
    if not found:
        return []
    axes = ", ".join(answers[0].part.values)
    columns = ["Δ < 0", "Δ > 0", "shown\nbetter", "shown\nworse"]
    table = new_table(f"Signs of the differences in {len(answers)} settings of {axes}", columns, words="in all")
    for one in found:
        counts = [one.count(-1), one.count(1), one.count(-1, shown=True), one.count(1, shown=True)]
        table.add_row(Text(wrapping_label(one.variant)), *map(str, counts), Text(one.sentence))
    text = "Settings in which the validation loss is lower or higher than the baseline's, and in which that is shown."
    return [table, Text(text, "dim"), Text()]


def signs_json(answers: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return the signs as plain data."""
    return [
        {
            "variant": one.variant,
            "settings": len(one.parts),
            "lower": one.count(-1),
            "higher": one.count(1),
            "shown_better": one.count(-1, shown=True),
            "shown_worse": one.count(1, shown=True),
            "depends_on": one.depends_on,
            "summary": one.sentence,
            "parts": [
                {
                    "values": dict(part.values),
                    "delta": part.delta if part.delta is not None and math.isfinite(part.delta) else None,
                    "comparable": part.comparable,
                    "verdict": part.verdict or None,
                }
                for part in one.parts
            ],
        }
        for one in signs(answers)
    ]
