"""The statistics of a comparison as tables: seed noise and evaluation noise apart, and what may be concluded."""

from collections.abc import Callable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.report.captions import forced_line
from vgpt.report.comparison import Comparison
from vgpt.report.differences import BETTER, LEAST_SEEDS, WORSE, Difference
from vgpt.report.layout import add_row, new_table
from vgpt.report.numbers import DASH, LOSS, LOSS_SE, shown_change, shown_p, stat
from vgpt.report.statistics import MOST_SEEDS

_STYLES = {BETTER: "bold green", WORSE: "bold red"}


def significance(comparison: Comparison) -> list[RenderableType]:
    """Return the tables with their captions; none where no row has a second seed or losses per window."""
    several = any(len(row.runs) > 1 for row in comparison.rows)
    differences = [one.difference for one in comparison.statistics if one.difference is not None]
    parts: list[RenderableType] = []
    if several:
        parts += [_seeds(comparison), Text()]
    if differences and (several or any(one.noise for one in differences)):
        parts += [_differences(comparison), *_captions(comparison, differences), Text()]
    return parts


def _seeds(comparison: Comparison) -> Table:
    columns = ["seeds", "mean", "95% interval of the\nmean over seeds", "sd of\nseeds", "eval SE\nof one run"]
    table = new_table("Validation loss: noise of seeds, and noise of evaluation", columns)
    for row, found in zip(comparison.rows, comparison.statistics, strict=True):
        loss, error, interval = stat(row, LOSS), stat(row, LOSS_SE), found.interval
        add_row(
            table,
            row,
            str(loss.n if loss else 0),
            f"{loss.mean:.4f}" if loss else DASH,
            f"{interval.low:.4f} to {interval.high:.4f}" if interval else DASH,
            f"{interval.sd:.4f}" if interval else DASH,
            f"±{error.mean:.4f}" if error else DASH,
        )
    return table


def _differences(comparison: Comparison) -> Table:
    baseline, *rows = comparison.rows
    found = [one.difference for one in comparison.statistics[1:]]
    # A column in which no row has a number is left out.
    columns = {name: show for name, show in _COLUMNS.items() if any(one and show(one) != DASH for one in found)}
    title = f"Differences to {baseline.title} in validation loss"
    if _forced(comparison):
        title += " (--force: across unequal conditions)"
    table = new_table(title, list(columns), words="verdict")
    for row, one in zip(rows, found, strict=True):
        cells = [DASH if one is None else show(one) for show in columns.values()]
        verdict = "no loss on record" if one is None else one.verdict
        add_row(table, row, *cells, Text(verdict, _STYLES.get(verdict, "")))
    return table


def _captions(comparison: Comparison, differences: list[Difference]) -> list[Text]:
    text = Text(style="dim")
    text.append("n: seeds shared by both sides, over which Δ is the mean. ")
    if any(one.test for one in differences):
        text.append("± 95%: its interval. p t: Student's test within pairs. ")
        if any(one.method == "unpaired" for one in differences):
            text.append("No shared seeds: difference of means, by Welch's test. ")
        if any(one.p_permutation is not None for one in differences):
            text.append("flip: sign-flip permutation, never below 2/2^n. ")
        text.append("Holm: p t adjusted for all rows; the verdict is its, at 5%. ")
        text.append("n to show: seeds with which this Δ would be shown in 4 of 5 studies. ")
    if any(one.noise for one in differences):
        text.append("eval SE: how far Δ would move on other windows; it says nothing about other seeds. ")
    if any(one.seeds < LEAST_SEEDS for one in differences):
        text.append(f"A verdict takes {LEAST_SEEDS} seeds: --seeds {LEAST_SEEDS}. ")
    text.rstrip()
    return [text, *forced_line(comparison)]


def _forced(comparison: Comparison) -> bool:
    return comparison.force and bool(comparison.audit.flagged)


def _delta(one: Difference) -> str:
    shown = shown_change(one.delta)
    return shown if one.test is None else f"{shown} ±{one.test.half_width:.4f}"


def _seeds_needed(one: Difference) -> str:
    if one.method != "paired":
        return DASH
    return f">{MOST_SEEDS // 1000}k" if one.seeds_needed is None else f"{one.seeds_needed:,}"


def _p(value: float | None) -> str:
    return DASH if value is None else shown_p(value)


_COLUMNS: dict[str, Callable[[Difference], str]] = {
    "n": lambda one: str(one.seeds),
    "Δ\n± 95%": _delta,
    "p\nt": lambda one: _p(one.test and one.test.p),
    "p\nflip": lambda one: _p(one.p_permutation),
    "p\nHolm": lambda one: _p(one.p_holm),
    "n to\nshow": _seeds_needed,
    "eval\nSE": lambda one: DASH if one.noise is None else f"±{one.noise.se:.4f}",
}
