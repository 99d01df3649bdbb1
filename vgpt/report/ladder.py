"""A ladder as tables: differences by rung, their trend, predictions and what they came to, agreement of the order."""

import math
import time
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.ladder import Flip, Ladder, Prediction, RungDifference, VariantLadder
from vgpt.compare.statistics.rank_agreement import Agreement, Tau
from vgpt.compare.statistics.trend import Trend
from vgpt.formatting import DASH, format_change, format_count, wrapping_label
from vgpt.report.layout import new_table

FROM_TWO = "from two rungs: right only on a straight line"


def ladder_tables(ladder: Ladder | None) -> list[RenderableType]:
    """Return the tables of a ladder with their captions; nothing without one."""
    if ladder is None:
        return []
    return [*_rungs(ladder), *_trends(ladder), *_predictions(ladder), *_agreement(ladder.agreement)]


def _rungs(ladder: Ladder) -> list[RenderableType]:
    heads = [f"{one.name}\n{one.compute:.1e}" for one in ladder.rungs]
    table = new_table(f"Difference to {ladder.baseline} by rung (training FLOPs)", heads)
    for one in ladder.variants:
        table.add_row(Text(wrapping_label(one.variant)), *(Text(_cell(at)) for at in one.rungs))
    lines = [f"Nats per token, ± jointly for all rows of all rungs; * shown. Learning rate: {ladder.rate}."]
    lines += [
        f"{at.name}: {format_count(at.parameters)} non-embedding parameters, {format_count(at.tokens)} tokens, "
        f"lr {at.settings.get('lr', '?')}; {', '.join(at.variants)}"
        for at in ladder.rungs
    ]
    lines += [f"{one.variant}: {told}" for one in ladder.variants for told in _told_flips(one)]
    return [table, *(Text(line, "dim") for line in lines), Text()]


def _cell(at: RungDifference) -> str:
    if at.delta is None:
        return DASH
    half = f" ±{at.half_width:.4f}" if at.half_width is not None else ""
    return f"{format_change(at.delta)}{half}{'*' if at.shown else ''}"


def _told_flips(one: VariantLadder) -> list[str]:
    return [flip_sentence(flip) for flip in one.flips] + [
        f"no verdict at {at.rung.name} ({at.verdict or 'not on record'}), which has no part in the trend"
        for at in one.rungs
        if at.point is None
    ]


def flip_sentence(flip: Flip) -> str:
    """Return a change of sign in words."""
    parts = [f"{one.rung.name} ({'shown' if one.shown else 'not shown'})" for one in (flip.before, flip.after)]
    meaning = "the order changes" if flip.shown else "noise may do that"
    return f"the sign flips between {parts[0]} and {parts[1]}: {meaning}"


def _trends(ladder: Ladder) -> list[RenderableType]:
    columns = ["Δ per tenfold\ncompute", "df", "sd between\nrungs", f"next: {ladder.ahead.name}\n95% prediction"]
    table = new_table("Trend of the differences over compute", columns, words="meaning")
    for one in ladder.variants:
        if one.trend is None:
            table.add_row(
                Text(wrapping_label(one.variant)), *[DASH] * 4, Text("a trend takes two rungs with a verdict")
            )
            continue
        cells = [
            f"{one.trend.slope:+.4f} ±{one.trend.slope_half_width:.4f}",
            str(one.trend.df) if one.trend.df else DASH,
            f"{math.sqrt(one.trend.between):.4f}" if one.trend.df else DASH,
            _range(one.next) if one.next else DASH,
        ]
        table.add_row(Text(wrapping_label(one.variant)), *map(Text, cells), Text(trend_sentence(one.trend)))
    widest = max((one.trend.df for one in ladder.variants if one.trend), default=0)
    text = (
        "Each interval holds by itself, not jointly: the wider of that by the scatter around the line, with t of df "
        "degrees of freedom, and that by the noise of the seeds. "
    )
    if dates := [one.next.made for one in ladder.variants if one.next is not None and one.next.made is not None]:
        text += f"The predictions were recorded at {_date(min(dates))}. "
    text += {
        0: "Two rungs show no scatter: what is told is right only if differences lie on a straight line.",
        1: "Three rungs leave one degree of freedom, t = 12.7: such intervals are wide, and rightly so.",
    }.get(widest, "")
    return [table, Text(text.strip(), "dim"), Text()]


def trend_sentence(trend: Trend) -> str:
    """Return what may be said of a slope."""
    shown = abs(trend.slope) > trend.slope_half_width
    told = ("rises with compute" if trend.slope > 0 else "falls with compute") if shown else "no trend shown"
    return told if trend.df else f"{told}, {FROM_TWO}"


def _range(one: Prediction) -> str:
    return f"{one.low:+.4f} to {one.high:+.4f}"


def _predictions(ladder: Ladder) -> list[RenderableType]:
    found = [(one.variant, made) for one in ladder.variants for made in one.predictions]
    if not found:
        return []
    table = new_table("Predictions scored", ["rung", "95% prediction", "width", "came out", "inside"], words="made")
    for variant, one in found:
        inside = DASH if one.inside is None else "yes" if one.inside else "NO"
        observed = DASH if one.observed is None else format_change(one.observed)
        cells = [one.rung, _range(one), f"{one.width:.4f}", observed, inside]
        table.add_row(Text(wrapping_label(variant)), *map(Text, cells), Text(_made(one)))
    text = (
        "Before: recorded before the rung's first run began. Left out: worked out afterwards from the rungs before it. "
        f"{_score(found)}"
    )
    if any(one.df == 0 for _, one in found):
        text += f" Those {FROM_TWO}."
    return [table, Text(text, "dim"), Text()]


def _made(one: Prediction) -> str:
    from_rungs = f"from {', '.join(one.rests_on)}"
    if one.left_out or one.made is None:
        return f"left out, {from_rungs}"
    return f"before, {_date(one.made)}, {from_rungs}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _score(found: Sequence[tuple[str, Prediction]]) -> str:
    parts: list[str] = []
    for words, left_out in (("recorded before", False), ("left out", True)):
        own = [one.inside for _, one in found if one.left_out == left_out and one.inside is not None]
        if own:
            parts.append(f"{sum(own)} of {len(own)} {words}")
    return f"Inside: {'; '.join(parts) or 'none'}."


def _agreement(found: Agreement | None) -> list[RenderableType]:
    if found is None:
        return []
    table = new_table(f"Agreement of the order of {found.variants} variants", ["tau-b", "95% over seeds"])
    table.columns[0].header = "rungs"
    for before, after, tau in found.neighbors:
        table.add_row(Text(f"{before} and {after}"), *_tau(tau))
    table.add_row(Text("all pairs, mean"), *_tau(found.overall))
    text = "Kendall's tau-b: 1 for the same order at both rungs, -1 for the reverse. Interval: bootstrap over seeds."
    return [table, Text(text, "dim"), Text()]


def _tau(tau: Tau) -> tuple[str, str]:
    value = DASH if tau.value is None else f"{tau.value:+.2f}"
    return value, DASH if tau.low is None or tau.high is None else f"{tau.low:+.2f} to {tau.high:+.2f}"
