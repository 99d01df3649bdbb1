"""Standard suites of a comparison as tables: one for each task, with what each row gains or loses and its interval."""

import math
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.breakdowns.differences import PartDifference
from vgpt.compare.comparison import Comparison
from vgpt.compare.suites.collect import RowFigure, SuiteTask
from vgpt.formatting import DASH, counted, format_change
from vgpt.report.layout import add_row, new_table
from vgpt.report.suites.one_run import better, number
from vgpt.tracking.suites.record import BITS

_MOST_TASKS = 8
_MOST_NAMED = 3


def suite_tables(comparison: Comparison) -> list[RenderableType]:
    """Return a table for each task that runs have on record; of many, those of groups first."""
    tasks = sorted(comparison.suites.values(), key=lambda one: one.asked.kind != "group")
    found = [part for one in tasks[:_MOST_TASKS] for part in (*_of_task(comparison, one), Text())]
    if len(tasks) > _MOST_TASKS:
        more = f"{len(tasks) - _MOST_TASKS} more tasks are in --json; --columns suite/TASK/METRIC shows any of them."
        found += [Text(more, "dim"), Text()]
    return found


def _of_task(comparison: Comparison, task: SuiteTask) -> list[RenderableType]:
    table = new_table(f"Suite: {task.task}", ["metric", "value ± SE", "Δ", "95%"])
    for row in comparison.rows:
        figures = task.rows[row.label].figures
        if not figures:
            add_row(table, row, *[DASH] * 4)
        for place, (name, figure) in enumerate(figures.items()):
            cells = _cells(name, figure)
            if place == 0:
                add_row(table, row, *cells)
            else:
                table.add_row("", *map(Text, cells))
    return [table, *_captions(comparison, task)]


def _cells(name: str, figure: RowFigure) -> list[str]:
    value = number(figure.value) + (f" ±{figure.se:.4f}" if math.isfinite(figure.se) else "")
    one = figure.difference
    return [name, value, DASH if one is None else format_change(one.delta), _half(one)]


def _half(one: PartDifference | None) -> str:
    return DASH if one is None or one.half_width is None else f"±{one.half_width:.4f}"


def _captions(comparison: Comparison, task: SuiteTask) -> list[Text]:
    asked = task.asked
    documents = f"{asked.documents:,} of " if asked.of != asked.documents else ""
    documents += counted(asked.of, "document")
    said = [f"{documents}, {asked.fewshot} examples in each prompt, in {asked.dtype}, asked alike of all rows."]
    said.append("SE: over documents.")
    figures = [figure for row in task.rows.values() for figure in row.figures.values()]
    if overs := sorted({figure.difference.over for figure in figures if figure.difference}):
        over = " or ".join(overs).replace("windows", "documents")
        said.append(f"Intervals are over {over}, of each number alone, no verdicts.")
    shown = [name for name in dict.fromkeys(n for row in task.rows.values() for n in row.figures) if name != BITS]
    if ways := [f"{name}{better(asked, name)}" for name in shown if name in asked.higher_is_better]:
        said.append(f"{', '.join(ways)}.")
    if any(BITS in row.figures for row in task.rows.values()):
        of = "of the text" if asked.kind == "loglikelihood_rolling" else "of the right answer, mean over documents"
        said.append(f"{BITS}: {of} (lower is better).")
    lines = [Text(" ".join(said), "dim")]
    rows = [task.rows[row.label] for row in comparison.rows]
    if earlier := [name for row in rows for name in row.earlier]:
        lines.append(Text(f"Of the best checkpoint, which is not the last step: {_few(earlier)}.", "dim"))
    if missing := [name for row in rows for name in row.missing]:
        asks = f"Not asked this, or asked otherwise: {_few(missing)}; vgpt eval RUN --suite asks {task.task}."
        lines.append(Text(asks, "dim"))
    return lines


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")
