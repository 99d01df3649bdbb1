"""The costs of training and decoding by figures that were measured side by side, and what they rest on."""

from collections.abc import Callable

from rich.console import RenderableType
from rich.text import Text

from vgpt.bench.result import DECODE, TRAIN, Measured
from vgpt.bench.tables import DISTURBED, shown_ratio
from vgpt.report.comparison import Comparison
from vgpt.report.grouping import Row
from vgpt.report.layout import add_row, new_table
from vgpt.report.numbers import DASH, FLOPS, relative_change, shown_bytes, shown_count, shown_relative, stat


def speed_tables(comparison: Comparison) -> list[RenderableType]:
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
            DASH if flops is None else shown_count(flops.mean),
            DASH if row is rows[0] or change is None else shown_relative(change),
            _of(train, lambda one: f"{one.tokens_per_second:,.0f}"),
            speed_change(comparison, TRAIN, row),
            _of(train, lambda one: f"{one.mfu(machine):.1%}"),
            _of(train, lambda one: DASH if one.peak_bytes is None else shown_bytes(one.peak_bytes)),
        )
        add_row(
            decoding,
            row,
            _of(decode, lambda one: f"{1000 * one.spread.median:.3g}"),
            _of(decode, lambda one: f"{one.tokens_per_second:,.0f}"),
            speed_change(comparison, DECODE, row),
            _of(decode, lambda one: f"{one.mbu(machine) or 0:.1%}"),
            _of(decode, lambda one: f"{one.mfu(machine):.1%}"),
        )
    return [training, Text(), decoding, speed_caption(comparison)]


def speed_change(comparison: Comparison, phase: str, row: Row) -> str:
    """Return a row's difference in speed to the baseline with its interval, or why there is none."""
    speeds, baseline = comparison.speeds, comparison.rows[0]
    if speeds is None or row is baseline:
        return DASH
    ratio = speeds.speedup(phase, row, baseline)
    return DISTURBED if ratio is None else shown_ratio(ratio)


def speed_caption(comparison: Comparison) -> Text:
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


def _of(one: Measured | None, show: Callable[[Measured], str]) -> str:
    return DASH if one is None else show(one)
