"""The table of training speeds, from logs, with their spread; what MFU is a share of."""

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.report.grouping import Row
from vgpt.report.layout import add_row, new_table
from vgpt.report.numbers import DASH, shown_count, shown_percent, shown_relative
from vgpt.report.speeds import PALM_FLOPS, SpeedChange, common_peaks, row_speed, speed_change, utilisation

_OLDER = "*"
_PEAKS = {"published": "published for the device", "measured": "the largest that a matrix product reached in any run"}


def speed_table(rows: Sequence[Row]) -> list[RenderableType]:
    """Return the table with its caption."""
    columns = ["tokens/s\n(median)", "5% to 95%\nof intervals", "inter-\nvals", "MFU", "MFU\nPaLM"]
    table = new_table("Speed of training, from logs", columns, words="Δ tokens/s")
    older: list[str] = []
    for row in rows:
        found = row_speed(row)
        if found is not None and not found.from_logs:
            older.append(row.title)
        add_row(
            table,
            row,
            DASH if found is None else f"{found.tokens_per_second:,.0f}{'' if found.from_logs else _OLDER}",
            DASH if found is None or found.low is None else f"{found.low:,.0f} to {found.high:,.0f}",
            DASH if found is None or not found.intervals else f"{found.intervals:,}",
            _share(utilisation(row, rows)),
            _share(utilisation(row, rows, PALM_FLOPS)),
            DASH if row is rows[0] else shown_speed_change(speed_change(row, rows[0])),
        )
    return [table, _caption(rows, older), Text()]


def shown_speed_change(change: SpeedChange) -> str:
    """Return a difference of speeds in percent, or why there is none."""
    return change.why if change.share is None else shown_relative(change.share)


def speed_json(row: Row, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the speed of a row as plain data; None where none is recorded."""
    found = row_speed(row)
    if found is None:
        return None
    change = None if row is rows[0] else speed_change(row, rows[0])
    return {
        "source": "logs" if found.from_logs else "mean over all steps, of an older version",
        "tokens_per_second": found.tokens_per_second,
        "low": found.low,
        "high": found.high,
        "intervals": found.intervals,
        "change": change and change.share,
        "no_change_because": (change and change.why) or None,
        "mfu": utilisation(row, rows),
        "mfu_palm": utilisation(row, rows, PALM_FLOPS),
    }


def _caption(rows: Sequence[Row], older: Sequence[str]) -> Text:
    text = Text(style="dim")
    text.append(
        "Runs are trained one after another: a difference is shown only where the spreads of log intervals do not "
        "overlap and all that bears on speed is equal. "
    )
    if older:
        text.append(f"{_OLDER} mean over all steps, as older versions recorded it. ")
    text.append("MFU counts the variant's own FLOPs, MFU PaLM by the formula of other papers; ")
    peaks = common_peaks(rows)
    if not peaks:
        text.append("of no peak on record.")
    else:
        told = [
            f"{shown_count(peak.flops)}FLOP/s{'' if len(peaks) == 1 else f' ({device}, {dtype})'}, "
            f"{_PEAKS.get(peak.source, 'of a source that is not recorded')}"
            for (device, dtype), peak in peaks.items()
        ]
        text.append(f"of one peak for all rows of a device and precision: {'; '.join(told)}.")
    return text


def _share(value: float | None) -> str:
    return DASH if value is None else shown_percent(value)
