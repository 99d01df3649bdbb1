"""A staircase as tables, sentences and plain data: what each step changes, costs and saves, and the sum of all."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row
from vgpt.compare.staircase import Stair
from vgpt.compare.steps import COSTS, Climb, Step
from vgpt.formatting import DASH, counted, format_bytes, format_change, format_count, format_p, wrapping_label
from vgpt.report.layout import new_table

_STYLES = {"better": "bold green", "worse": "bold red"}
_SHOWN = {"params": format_count, "flops": format_count, "kv": format_bytes}


def staircase_tables(comparison: Comparison) -> list[RenderableType]:
    """Return the two tables with their captions: losses, then what changes and what it costs; nothing without one."""
    found = comparison.climb
    if found is None:
        return []
    title = f"Staircase from {_name(found, 0)} to {_name(found, -1)}: validation loss"
    losses = new_table(title, ["n", "Δ to the step\nbefore, ± 95%", "p\nadj", "Δ so far"], words="verdict")
    costs = new_table("What each step changes", ["Δ params", "Δ FLOPs\nper token", "Δ KV at\ncontext"], words="changes")
    for number, stair in enumerate(found.stairs):
        name = Text(_name(found, number))
        if number == 0:
            losses.add_row(name, *[DASH] * 4, Text("where it starts", "dim"))
            continue
        step, so_far = found.steps[number - 1], found.cumulative(number)
        cells = [DASH if so_far is None else format_change(so_far), _verdict(step)]
        losses.add_row(name, *_numbers(step), *cells)
        costs.add_row(name, *(_cost(step, what) for what in COSTS), Text(_changes(stair, step)))
    if len(found.steps) > 1:
        losses.add_section()
        whole = found.whole.delta
        total = [DASH if whole is None else format_change(whole), _verdict(found.whole)]
        losses.add_row(Text("the whole, directly", "bold"), *_numbers(found.whole), *total)
        costs.add_row(Text("the whole", "bold"), *(_cost(found.whole, what) for what in COSTS), "")
    lines = [Text(line) for line in sum_lines(found)]
    return [losses, *lines, Text(_caption(found), "dim"), Text(), costs, Text()]


def sum_lines(found: Climb) -> list[str]:
    """Return what the steps add up to, against the whole measured directly, in sentences."""
    total, whole = found.sum, found.whole.delta
    if len(found.steps) < 2:
        return []
    if total is None or whole is None:
        unknown = [stair.what for stair, step in zip(found.stairs[1:], found.steps, strict=True) if step.delta is None]
        return [f"The steps have no sum yet: no difference is known for {'; '.join(unknown) or 'the whole'}."]
    if found.exact:
        seeds = found.whole.seeds()
        same = counted(len(seeds), "seed")
        return [f"The {len(found.steps)} steps add up to {total:+.4f}, the whole, over the same {same}."]
    sizes = sorted({len(step.seeds()) for step in (*found.steps, found.whole)})
    return [
        f"The {len(found.steps)} steps add up to {total:+.4f} and the whole is {whole:+.4f}: {total - whole:+.4f} "
        f"apart, since they are not over the same seeds ({sizes[0]} to {sizes[-1]} of them)."
    ]


def step_to(comparison: Comparison, row: Row) -> tuple[Stair, Step] | None:
    """Return the step that leads to a row; None for the first stair, and where there is no staircase."""
    found = comparison.climb
    for number, one in enumerate(found.rows) if found is not None else ():
        if found is not None and one is row and number:
            return found.stairs[number], found.steps[number - 1]
    return None


def staircase_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return everything as plain data; None where there is no staircase."""
    found = comparison.climb
    if found is None:
        return None
    return {
        "from": found.stairs[0].label,
        "to": found.stairs[-1].label,
        "level": 0.95,
        "family": found.family,
        "stairs": [
            {
                "label": stair.label,
                "row": row.label if row is not None else None,
                "changes": [vars(change) for change in stair.changes],
                "note": stair.note or None,
                "cumulative": found.cumulative(number),
                "step": _step_json(found.steps[number - 1]) if number else None,
            }
            for number, (stair, row) in enumerate(zip(found.stairs, found.rows, strict=True))
        ],
        "sum": found.sum,
        "whole": _step_json(found.whole),
        "sum_is_exact": found.exact,
    }


def _step_json(step: Step) -> dict[str, Any]:
    delta, half = step.delta, step.half_width
    return {
        "delta": delta,
        "ci95": [delta - half, delta + half] if delta is not None and half is not None else None,
        "ci95_is_joint": step.judged,
        "seeds": list(step.seeds()),
        "p_adjusted": step.p,
        "verdict": step.verdict,
        "positions": step.positions or None,
        **{f"{what}_change": step.cost(metric) for what, metric in COSTS.items()},
    }


def _name(found: Climb, number: int) -> str:
    return wrapping_label(found.title(number % len(found.stairs)))


def _numbers(step: Step) -> list[str]:
    n = len(step.seeds()) or (step.difference.seeds if step.difference is not None else 0)
    delta = DASH if step.delta is None else format_change(step.delta)
    shown = delta if step.half_width is None else f"{delta} ±{step.half_width:.4f}"
    return [str(n) if n else DASH, shown, DASH if step.p is None else format_p(step.p)]


def _verdict(step: Step) -> Text:
    return Text(step.verdict, _STYLES.get(step.verdict, ""))


def _cost(step: Step, what: str) -> str:
    change = step.cost(COSTS[what])
    if change is None:
        return DASH
    return "=" if change == 0 else f"{'+' if change > 0 else '-'}{_SHOWN[what](abs(change))}"


def _changes(stair: Stair, step: Step) -> str:
    return "; ".join(filter(None, (stair.what, stair.note, step.positions)))


def _caption(found: Climb) -> str:
    if not found.family:
        return "± 95%: the interval of that step alone; none of them gets a verdict."
    own = [one for one in (*found.steps, found.whole) if one.judged]
    noise = "seeds and evaluation" if any(one.noise and one.noise.windows for one in own) else "seeds"
    pooled = "; a third of each variance is the mean over all" if len(own) > 1 else ""
    joint = f"joint over {found.family} differences, the whole among them" if found.family > 1 else "its interval"
    return f"± 95%: {joint}, from the noise of {noise}{pooled}. p adj: adjusted for the same; lower loss is better."
