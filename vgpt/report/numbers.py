"""Numbers of a row, averaged over its seeds, and how people read them: units, signs, percentages."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from vgpt.report.grouping import Row
from vgpt.report.pairing import pairing
from vgpt.tracking import speed
from vgpt.tracking.store import RunInfo

LOSS, LOSS_SE = "val/loss", "val/loss_se"
PERPLEXITY, BITS = "val/perplexity", "val/bits_per_byte"
PARAMS = "params/total"
FLOPS = "flops/train_per_token"
SPEED = speed.SPEED
DECODE = "perf/decode_seconds"
START_RMS = "start/attention_rms"
MEMORY, PROCESS_MEMORY = "memory/train_bytes", "memory/peak_bytes"
KV_TOKEN, KV_CONTEXT, KV_MEASURED = "kv/bytes_per_token", "kv/bytes_at_context", "kv/bytes_measured"
DASH = "-"


@dataclass(frozen=True)
class Stat:
    """A metric over the runs of a row.

    Attributes:
        mean: mean of the runs that recorded it.
        sd: sample standard deviation over them; None for a single run.
        n: how many they are.
    """

    mean: float
    sd: float | None
    n: int


def value_of(run: RunInfo, metric: str) -> float:
    """Return a metric of a run, NaN where it is not recorded; of older runs, what they recorded in its place.

    That is the mean speed over all steps, and the peak memory of the whole process.
    """
    if metric == SPEED:
        return speed.recorded_speed(run.metrics)[0]
    if metric == MEMORY and MEMORY not in run.metrics:
        return run.metrics.get(PROCESS_MEMORY, math.nan)
    return run.metrics.get(metric, math.nan)


def of_process(row: Row) -> bool:
    """Return whether any run's memory is known of the whole process alone, imports and evaluations included."""
    return any(MEMORY not in run.metrics and PROCESS_MEMORY in run.metrics for run in row.runs)


def stat(row: Row, metric: str) -> Stat | None:
    """Return a metric of a row; None where no run recorded a finite value."""
    values = [v for run in row.runs if math.isfinite(v := value_of(run, metric))]
    if not values:
        return None
    return Stat(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def change(row: Row, baseline: Row, metric: str) -> float | None:
    """Return a row's difference to the baseline over shared seeds, as `pairing` says; None where it has none."""
    found = pairing(row, baseline, metric)
    return None if found is None else found.delta


def relative_change(row: Row, baseline: Row, metric: str) -> float | None:
    """Return a row's mean over the baseline's, minus 1; None where it is not defined."""
    here, there = stat(row, metric), stat(baseline, metric)
    return None if here is None or there is None or there.mean == 0 else here.mean / there.mean - 1


def cache_disagrees(row: Row) -> bool:
    """Return whether any run's cache, as measured from its tensors, is not of the analytic size."""
    return any(
        run.metrics[KV_CONTEXT] != run.metrics[KV_MEASURED]
        for run in row.runs
        if KV_CONTEXT in run.metrics and KV_MEASURED in run.metrics
    )


def shown_count(value: float) -> str:
    """Return a count with a decimal suffix, four digits at most: 812, 10.34M, 1.2G."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"), "")


def shown_bytes(value: float) -> str:
    """Return a size in binary units: 768 B, 3 KiB, 1.5 MiB."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), " ")


def shown_milliseconds(seconds: float) -> str:
    """Return a short time: `0.84 ms`."""
    return f"{1000 * seconds:.3g} ms"


def shown_percent(value: float) -> str:
    """Return a share: 12.3%."""
    return f"{100 * value:.1f}%"


def shown_relative(value: float) -> str:
    """Return a relative change: +12.3%, or `=` where there is none at all."""
    return "=" if value == 0 else f"{100 * value:+.1f}%"


def shown_change(value: float) -> str:
    """Return an absolute change of a loss."""
    return "=" if value == 0 else f"{value:+.4f}"


def shown_p(value: float) -> str:
    """Return a p-value."""
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def _scaled(value: float, base: int, units: tuple[str, ...], space: str) -> str:
    power = 0
    while abs(value) >= base and power < len(units) - 1:
        value /= base
        power += 1
    digits = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{digits}{space}{units[power]}"
