"""The results of a bench for people and spreadsheets: a table for each case, what it rests on, CSV."""

import csv
import io
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.bench.result import DECODE, PREFILL, TRAIN, Bench, Case, Machine, Measured
from vgpt.bench.statistics import FEWEST, Ratio

DISTURBED = "disturbed"
_TITLES = {
    TRAIN: "Training step: {batch} x {context} tokens",
    PREFILL: "Prefill: {batch} x {context} tokens, up to the first new token",
    DECODE: "Decoding: {batch} x 1 token, context {context}",
}
_STEP = {TRAIN: "ms/step", PREFILL: "ms to\nfirst", DECODE: "ms/\ntoken"}

Column = tuple[str, Callable[[Case, Measured], str]]


def bench_tables(bench: Bench) -> list[RenderableType]:
    """Return what to print, in order; each table fits 80 columns."""
    parts: list[RenderableType] = []
    for case in bench.cases:
        parts += [_table(bench.machine, case), *_below(case), Text()]
    return [*parts, *_captions(bench)]


def _table(machine: Machine, case: Case) -> Table:
    title = _TITLES[case.phase].format(batch=f"{case.batch:,}", context=f"{case.context:,}")
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True
    table.add_column("attention", min_width=11, max_width=26, overflow="fold")
    columns = _columns(machine, case)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for one in case.variants:
        ratio = case.speedup(one.label)
        found = ratio is not None and ratio.shows and one is not case.variants[0]
        cells = [Text(show(case, one), "bold" if found and name.startswith("Δ") else "") for name, show in columns]
        table.add_row(Text(one.label.replace(":", " ", 1).replace(",", " ")), *cells)
    return table


def _columns(machine: Machine, case: Case) -> list[Column]:
    shared: list[Column] = [
        (_STEP[case.phase], lambda _, one: f"{1000 * one.spread.median:.4g}"),
        ("spread", lambda _, one: f"{one.spread.relative:.0%}"),
        ("tokens/s", lambda _, one: f"{one.tokens_per_second:,.0f}"),
        ("Δ speed\nand 95% interval", format_speedup),
    ]
    if case.phase == DECODE:
        return [
            *shared,
            ("MBU", lambda _, one: f"{one.mbu(machine) or 0:.1%}"),
            ("MFU", lambda _, one: f"{one.mfu(machine):.1%}"),
            ("cache", lambda _, one: format_cache(one)),
        ]
    return [
        *shared,
        ("MFU", lambda _, one: f"{one.mfu(machine):.1%}"),
        ("tensors\nat most", lambda _, one: "-" if one.peak_bytes is None else _mebibytes(one.peak_bytes)),
    ]


def format_speedup(case: Case, one: Measured) -> str:
    """Return the difference in speed to the first variant, with its interval; the word where it was disturbed."""
    if one is case.variants[0]:
        return "-"
    ratio = case.speedup(one.label)
    return DISTURBED if ratio is None else format_ratio(ratio)


def format_ratio(ratio: Ratio) -> str:
    """Return a ratio of speeds as percent with its interval: `+5.2% [+1.0 +9.8]`; a dash without an interval."""
    if ratio.low is None or ratio.high is None:
        return "-"
    return f"{100 * (ratio.value - 1):+.1f}% [{100 * (ratio.low - 1):+.1f} {100 * (ratio.high - 1):+.1f}]"


def format_cache(one: Measured) -> str:
    """Return the size of the caches; with the analytic size where that is another."""
    size = _mebibytes(one.cache_bytes)
    return size if one.cache_bytes == one.cache_analytic else f"{size} ≠ {_mebibytes(one.cache_analytic)}"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.3g} MiB" if count < 1000 * 2**20 else f"{count / 2**30:.3g} GiB"


def _below(case: Case) -> list[Text]:
    notes = [Text(f"  {one.label}: {one.note}", "yellow") for one in case.variants if one.note]
    if case.disturbed:
        return [Text(f"  {DISTURBED}, no claim is made: {'; '.join(case.disturbed)}", "yellow"), *notes]
    return notes


def _captions(bench: Bench) -> list[Text]:
    machine = bench.machine
    rounds = [len(case.variants[0].seconds) for case in bench.cases]
    repeated = sum(case.repeated for case in bench.cases)
    few = f" Fewer than {FEWEST} rounds bear no interval." if min(rounds) < FEWEST else ""
    again = f" {repeated} disturbed rounds were made again." if repeated else ""
    memory = "torch's allocations" if machine.device.startswith(("NVIDIA", "AMD Instinct")) else "torch's profiler"
    where = f"{machine.device}, {machine.dtype}, torch {machine.torch}."
    return [
        Text(
            f"{where} Medians of {_range(rounds)} rounds, variants in turn within each; spread: between the quartiles. "
            f"Δ: against {bench.cases[0].variants[0].label} within the same rounds; bold where its interval leaves "
            f"out 0.{few}{again}",
            "dim",
        ),
        Text(
            f"MFU of a {machine.peak_source} peak of {machine.peak_flops / 1e12:.3g} TFLOP/s; MBU: bytes of weights "
            f"and caches that a step reads, of a copy's {machine.copy_bandwidth / 1e9:.3g} GB/s, above 100% where they "
            f"stay in the processor's caches. Tensors at most: weights among them, by {memory}; scratch memory of "
            "libraries is not counted.",
            "dim",
        ),
    ]


def _range(rounds: Sequence[int]) -> str:
    return f"{min(rounds)}" if len(set(rounds)) == 1 else f"{min(rounds)} to {max(rounds)}"


def bench_csv(bench: Bench) -> str:
    """Return a line per case and variant, numbers raw."""
    head = ["phase", "batch", "context", "attention", "rounds", "seconds_median", "seconds_low", "seconds_high"]
    head += ["tokens_per_second", "speedup", "speedup_low", "speedup_high", "mfu", "mbu", "peak_bytes", "cache_bytes"]
    head += ["cache_analytic", "disturbed"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for case in bench.cases:
        for one in case.variants:
            ratio, spread = case.speedup(one.label), one.spread
            claims = ["", "", ""] if ratio is None else [ratio.value, ratio.low, ratio.high]
            line = [case.phase, case.batch, case.context, one.label, len(one.seconds)]
            line += [spread.median, spread.low, spread.high, one.tokens_per_second, *claims, one.mfu(bench.machine)]
            line += [one.mbu(bench.machine), one.peak_bytes, one.cache_bytes, one.cache_analytic]
            writer.writerow([*line, "; ".join(case.disturbed)])
    return text.getvalue()
