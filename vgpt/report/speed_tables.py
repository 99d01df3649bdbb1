"""The tables of speeds: from training logs, with their spread, and measured side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.bench.result import DECODE, TRAIN, Measured
from vgpt.bench.tables import DISTURBED, format_ratio
from vgpt.compare.comparison import Comparison, Speeds
from vgpt.compare.log_speeds import PALM_FLOPS, SpeedChange, common_peaks, row_speed, speed_change, utilization
from vgpt.compare.metrics import FLOPS, relative_change, stat
from vgpt.compare.rows import Row
from vgpt.formatting import DASH, format_bytes, format_count, format_percent, format_relative
from vgpt.report.layout import add_row, new_table

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
            _share(utilization(row, rows)),
            _share(utilization(row, rows, PALM_FLOPS)),
            DASH if row is rows[0] else format_speed_change(speed_change(row, rows[0])),
        )
    return [table, _caption(rows, older), Text()]


def format_speed_change(change: SpeedChange) -> str:
    """Return a difference of speeds in percent, or why there is none."""
    return change.why if change.share is None else format_relative(change.share)


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
        "mfu": utilization(row, rows),
        "mfu_palm": utilization(row, rows, PALM_FLOPS),
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
            f"{format_count(peak.flops)}FLOP/s{'' if len(peaks) == 1 else f' ({device}, {dtype})'}, "
            f"{_PEAKS.get(peak.source, 'of a source that is not recorded')}"
            for (device, dtype), peak in peaks.items()
        ]
        text.append(f"of one peak for all rows of a device and precision: {'; '.join(told)}.")
    return text


def _share(value: float | None) -> str:
    return DASH if value is None else format_percent(value)


def measured_tables(comparison: Comparison) -> list[RenderableType]:
    """Return the tables of costs of a comparison whose speeds were measured; each fits 80 columns."""
    rows, speeds = comparison.rows, comparison.speeds
    assert speeds is not None
    machine = speeds.bench.machine
    training = new_table(
        "Cost of training", ["FLOPs\nper token", "Δ", "tokens/s", "Δ speed", "MFU", "tensors\nat most"]
    )
    decoding = new_table("Cost of decoding, one sequence", ["ms per\ntoken", "tokens/s", "Δ speed", "MBU", "MFU"])
    for row in rows:
        flops, change = stat(row, FLOPS), relative_change(row, rows[0], FLOPS)
        train, decode = speeds.measured(TRAIN, row), speeds.measured(DECODE, row)
        add_row(
            training,
            row,
            DASH if flops is None else format_count(flops.mean),
            DASH if row is rows[0] or change is None else format_relative(change),
            _cell(train, lambda one: f"{one.tokens_per_second:,.0f}"),
            measured_change(comparison, TRAIN, row),
            _cell(train, lambda one: f"{one.mfu(machine):.1%}"),
            _cell(train, lambda one: DASH if one.peak_bytes is None else format_bytes(one.peak_bytes)),
        )
        add_row(
            decoding,
            row,
            _cell(decode, lambda one: f"{1000 * one.spread.median:.3g}"),
            _cell(decode, lambda one: f"{one.tokens_per_second:,.0f}"),
            measured_change(comparison, DECODE, row),
            _cell(decode, lambda one: f"{one.mbu(machine) or 0:.1%}"),
            _cell(decode, lambda one: f"{one.mfu(machine):.1%}"),
        )
    return [training, Text(), decoding, measured_caption(comparison)]


def measured_change(comparison: Comparison, phase: str, row: Row) -> str:
    """Return a row's difference in speed to the baseline with its interval, or why there is none."""
    speeds, baseline = comparison.speeds, comparison.rows[0]
    if speeds is None or row is baseline:
        return DASH
    ratio = speeds.speedup(phase, row, baseline)
    return DISTURBED if ratio is None else format_ratio(ratio)


def measured_caption(comparison: Comparison) -> Text:
    """Say how speeds were measured, and what MFU and MBU are shares of."""
    speeds = comparison.speeds
    assert speeds is not None
    machine, cases = speeds.bench.machine, speeds.bench.cases
    rounds = min(len(case.variants[0].seconds) for case in cases)
    text = Text(
        f"Speeds: all variants in one process, in turn, medians of {rounds} rounds; Δ speed with its 95% interval. "
        f"MFU of one {machine.peak_source} peak of {machine.peak_flops / 1e12:.3g} TFLOP/s, MBU of a copy's "
        f"{machine.copy_bandwidth / 1e9:.3g} GB/s.",
        "dim",
    )
    reasons = dict.fromkeys(reason for case in cases for reason in case.disturbed)
    if reasons:
        text.append(f" {DISTURBED}: {'; '.join(reasons)}; --run-missing measures again.", "yellow")
    return text


def _cell(one: Measured | None, show: Callable[[Measured], str]) -> str:
    return DASH if one is None else show(one)


def speeds_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the speeds of a comparison as plain data, by row; None without a record."""
    speeds = comparison.speeds
    if speeds is None:
        return None
    machine = speeds.bench.machine
    return {
        "machine": vars(machine),
        "rows": {row.label: _row_json(speeds, row, comparison.rows) for row in comparison.rows},
        "disturbed": {case.phase: list(case.disturbed) for case in speeds.bench.cases},
    }


def _row_json(speeds: Speeds, row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for phase in (TRAIN, DECODE):
        one, ratio = speeds.measured(phase, row), speeds.speedup(phase, row, rows[0])
        if one is not None:
            table[phase] = {
                "seconds": one.spread.median,
                "quartiles": [one.spread.low, one.spread.high],
                "tokens_per_second": one.tokens_per_second,
                "mfu": one.mfu(speeds.bench.machine),
                "mbu": one.mbu(speeds.bench.machine),
                "peak_bytes": one.peak_bytes,
                "speedup": None if ratio is None else vars(ratio),
            }
    return table
