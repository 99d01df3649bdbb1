"""The breakdowns of a comparison as tables: what each part loses or gains against the baseline, with its interval."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.breakdowns.collect import BEYOND, KindBreakdown, RowBreakdown, RowPart
from vgpt.compare.breakdowns.differences import PartDifference
from vgpt.compare.comparison import Comparison
from vgpt.compare.statistics.evaluation_noise import CLUSTERS
from vgpt.formatting import DASH, format_change, format_percent
from vgpt.report.breakdowns.one_run import AXES, TITLES
from vgpt.report.layout import add_row, new_table
from vgpt.tracking.breakdowns.record import LENGTHS, POSITIONS, REACH, RECALL, TEXT

_FLAGS = {POSITIONS: "--by-position", RECALL: "--recall"}
_MOST_NAMED = 3
_MOST_LINES = 6
"""Of the spans of one row: the others are in the figure, in --json and in --csv --columns."""


def breakdown_tables(comparison: Comparison) -> list[RenderableType]:
    """Return a table of each breakdown that runs have on record."""
    found = comparison.breakdowns.values()
    parts = [part for one in found for part in (*_of_kind(comparison, one), Text())]
    return [*parts[:-1], *_intervals(comparison), Text()] if parts else []


def _of_kind(comparison: Comparison, found: KindBreakdown) -> list[RenderableType]:
    rows = comparison.rows
    recall = found.kind == RECALL
    columns = [AXES[found.kind], *([] if found.kind in (LENGTHS, TEXT) else ["share"]), "loss", "Δ", "95%"]
    table = new_table(TITLES[found.kind], [*columns, *(["of the gap"] if recall else [])])
    for row in rows:
        one = found.rows[row.label]
        if not one.parts:
            add_row(table, row, *[DASH] * (len(columns) + recall))
        for number, part in enumerate(_shown(found, one)):
            cells = _cells(found, part)
            if recall:
                cells.append(_gap(one) if number == 0 else "")
            if number == 0:
                add_row(table, row, *cells)
            else:
                table.add_row("", *map(Text, cells))
    return [table, *_captions(comparison, found)]


def _shown(found: KindBreakdown, one: RowBreakdown) -> Sequence[RowPart]:
    """Return the parts that a terminal has room for: of spans every so manyth, the last ones always."""
    if found.kind not in (POSITIONS, REACH):
        return one.parts
    spans = [part for part in one.parts if part.name != BEYOND]
    step = -(-len(spans) // _MOST_LINES)
    kept = [part for number, part in enumerate(spans) if (len(spans) - 1 - number) % step == 0]
    return [*kept, *(part for part in one.parts if part.name == BEYOND)]


def _cells(found: KindBreakdown, part: RowPart) -> list[str]:
    beyond = found.kind in (LENGTHS, REACH) and found.block_size and part.at > found.block_size
    share = [] if found.kind in (LENGTHS, TEXT) else [format_percent(part.share)]
    change = DASH if part.difference is None else format_change(part.difference.delta)
    name = "all beyond" if part.name == BEYOND else part.name
    return [f"{name} *" if beyond else name, *share, f"{part.loss:.4f}", change, _half(part.difference)]


def _half(one: PartDifference | None) -> str:
    return DASH if one is None or one.half_width is None else f"±{one.half_width:.4f}"


def _gap(one: RowBreakdown) -> str:
    if one.gap is None:
        return DASH
    half = "" if one.gap.half_width is None else f" ±{100 * one.gap.half_width:.0f}"
    return f"{100 * one.gap.share:.0f}{half}%"


def _captions(comparison: Comparison, found: KindBreakdown) -> list[Text]:
    windows, _, rest = found.windows.partition("x")
    length = rest.partition(":")[0]
    said = [f"{int(windows):,} windows of {length} tokens of {found.text}, the same for all rows."]
    if found.kind == RECALL:
        said.append("repeated: tokens that end a bigram which stood in the window before.")
        said.append("of the gap: their share in Δ over all tokens, where that is shown to be a difference.")
    lines = [Text(" ".join(said), "dim")]
    if found.kind in (LENGTHS, REACH) and found.block_size:
        lines.append(Text(f"* beyond the {found.block_size:,} tokens of training", "dim"))
    every = [found.rows[row.label] for row in comparison.rows]
    if missing := [name for one in every for name in one.missing]:
        lines.append(Text(f"Not recorded on these windows: {_few(missing)}; vgpt eval RUN {_flag(found)} does.", "dim"))
    if earlier := [name for one in every for name in one.earlier]:
        lines.append(Text(f"Of the best checkpoint, which is not the last step: {_few(earlier)}.", "dim"))
    if len(found.dtypes) > 1:
        lines.append(Text(f"Not evaluated in one precision: {', '.join(found.dtypes)}.", "yellow"))
    return lines


def _intervals(comparison: Comparison) -> list[Text]:
    """Return what the intervals of all these tables are over; nothing where there is none."""
    every = [part for found in comparison.breakdowns.values() for one in found.rows.values() for part in one.parts]
    differences = [part.difference for part in every if part.difference]
    overs = sorted({one.over for one in differences if one.half_width is not None})
    if not overs:
        return []
    kinds = sorted({CLUSTERS[one.clusters] for one in differences if one.clusters})
    said = f"95% of parts: over {' or '.join(overs)} ({'; '.join(kinds)}), of each number alone; no verdict is given."
    return [Text(said, "dim")]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")


def _flag(found: KindBreakdown) -> str:
    if found.kind == TEXT:
        return "--text FILE"
    lengths = next((",".join(part.name for part in one.parts) for one in found.rows.values() if one.parts), "")
    return _FLAGS.get(found.kind) or f"--lengths {lengths if found.kind == LENGTHS else '...'}"
