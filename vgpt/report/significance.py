"""The statistics of a comparison as tables: seed noise and evaluation noise apart, and what may be concluded."""

from collections.abc import Callable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import LOSS, stat
from vgpt.compare.statistics.differences import LEAST_SEEDS, LossDifference
from vgpt.compare.statistics.evaluation_noise import CLUSTERS
from vgpt.compare.statistics.family import Judged
from vgpt.compare.statistics.margin import BETTER, EQUAL, NO_WORSE, WORSE
from vgpt.formatting import DASH, format_change, format_p
from vgpt.report.captions import fact_lines, forced_line, margin_sentence
from vgpt.report.layout import add_row, new_table

_STYLES = {BETTER: "bold green", WORSE: "bold red", EQUAL: "green", NO_WORSE: "green"}


def significance(comparison: Comparison) -> list[RenderableType]:
    """Return the tables with their captions; none where no row has a second seed or losses per window."""
    several = any(len(row.runs) + len(row.failed) > 1 for row in comparison.rows)
    differences = [one.difference for one in comparison.statistics if one.difference is not None]
    parts: list[RenderableType] = []
    if several:
        parts += [_seeds(comparison), Text()]
    if differences and (several or any(one.noise for one in differences)):
        parts += [_differences(comparison), *_captions(comparison, differences), Text()]
    return parts


def verdict_lines(comparison: Comparison) -> list[Text]:
    """Return what is found of each row, a sentence each: its verdict, and the difference that it rests on.

    Rows that lost seeds have none: what became of the seeds is told by `vgpt.report.formats.notes`.
    """
    lines: list[Text] = []
    for row, found in zip(comparison.rows[1:], comparison.statistics[1:], strict=True):
        one = found.difference
        if one is not None and one.verdict and not found.lost:
            verdict = (one.verdict, _style(one.verdict))
            lines.append(Text.assemble(f"{row.title}: ", verdict, f", {_delta(one)} nats per token"))
    return lines


def _seeds(comparison: Comparison) -> Table:
    columns = ["seeds", "mean", "95% interval of the\nmean over seeds", "sd of\nseeds", "eval SE\nof one run"]
    table = new_table("Validation loss: noise of seeds, and noise of evaluation", columns)
    for row, found in zip(comparison.rows, comparison.statistics, strict=True):
        loss, error, interval = stat(row, LOSS), found.loss_se, found.interval
        add_row(
            table,
            row,
            str(loss.n if loss else 0),
            f"{loss.mean:.4f}" if loss else DASH,
            f"{interval.low:.4f} to {interval.high:.4f}" if interval else DASH,
            f"{interval.sd:.4f}" if interval else DASH,
            f"±{error:.4f}" if error is not None else DASH,
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
    for row, one, lost in zip(rows, found, (one.lost for one in comparison.statistics[1:]), strict=True):
        cells = [DASH if one is None else show(one) for show in columns.values()]
        verdict = lost or "no loss on record" if one is None else one.verdict
        add_row(table, row, *cells, Text(verdict, _style(verdict)))
    return table


def _captions(comparison: Comparison, differences: list[LossDifference]) -> list[Text]:
    text = Text(style="dim")
    text.append("n: seeds shared by both sides, over which Δ is the mean. ")
    judged = [one.judged for one in differences if one.judged is not None]
    if judged:
        text.append(_interval_caption(judged))
    if any(one.bounds for one in differences):
        text.append("Loses at most: upper one-sided 95% bound of Δ, for the same rows. ")
    if judged:
        text.append("p adj: of no difference, adjusted for them; below 5% where the interval leaves out zero. ")
        text.append(_margin_caption(comparison))
        if any(_detectable(one) != DASH for one in differences):
            text.append("MDE: minimum detectable effect, the true difference that such a study shows with 80% power. ")
    if any(one.test and one.judged is None and one.half_width is not None for one in differences):
        text.append(f"{'Rows without a verdict: ' if judged else ''}± 95%: the interval of that row alone. ")
    if any(one.method == "unpaired" for one in differences):
        text.append("No shared seeds: difference of means, by Welch's test. ")
    noises = [one.noise for one in differences if one.noise is not None]
    if noises:
        kinds = "; ".join(words for kind, words in CLUSTERS.items() if any(noise.kind == kind for noise in noises))
        text.append(f"eval SE: how far Δ would move on other text ({kinds}); it says nothing about other seeds. ")
    if judged and not all(one.noise for one in differences if one.judged is not None):
        text.append("Where no eval SE stands, verdicts rest on the noise of seeds alone. ")
    if any(one.seeds < LEAST_SEEDS for one in differences):
        text.append(f"A verdict takes {LEAST_SEEDS} seeds: --seeds {LEAST_SEEDS}. ")
    text.rstrip()
    return [text, *fact_lines(comparison), *forced_line(comparison)]


def _margin_caption(comparison: Comparison) -> str:
    margin = comparison.known_margin
    if margin is None:
        return "No margin was given: --margin says which loss you would not mind. "
    return f"{margin_sentence(margin)} Equal within, no worse: by one-sided bounds, at 5% for all rows together. "


def _interval_caption(judged: list[Judged]) -> str:
    rows = judged[0].rows
    noise = "seeds and evaluation" if any(one.noise.windows for one in judged) else "seeds"
    if rows == 1:
        return f"± 95%: its interval, from the noise of {noise}. "
    pooled = any(one.block.rows > 1 for one in judged)
    how = "; a third of each variance is the mean over rows with the same seeds" if pooled else ""
    where = "" if rows == len(judged) else " of all parts of the study"
    return f"± 95%: joint over {rows} rows{where}, from the noise of {noise}{how}. "


def _forced(comparison: Comparison) -> bool:
    return comparison.force and bool(comparison.audit.flagged)


def _delta(one: LossDifference) -> str:
    shown = format_change(one.delta)
    return shown if one.half_width is None else f"{shown} ±{one.half_width:.4f}"


def _at_most(one: LossDifference) -> str:
    return DASH if (bounds := one.bounds) is None else format_change(bounds.at_most)


def _style(verdict: str) -> str:
    return next((style for word, style in _STYLES.items() if verdict.startswith(word)), "")


def _p(value: float | None) -> str:
    return DASH if value is None else format_p(value)


def _detectable(one: LossDifference) -> str:
    """Return what would have been shown, where nothing was."""
    said = one.answer
    return DASH if said is None or one.judged is None or said.better or said.worse else f"{one.judged.detectable:.4f}"


_COLUMNS: dict[str, Callable[[LossDifference], str]] = {
    "n": lambda one: str(one.seeds),
    "Δ\n± 95%": _delta,
    "loses\nat most": _at_most,
    "p\nadj": lambda one: _p(one.judged and one.judged.p),
    "MDE\n80%": _detectable,
    "eval\nSE": lambda one: DASH if one.noise is None else f"±{one.noise.se:.4f}",
}
