"""Speeds from training logs: what rows reached, whether two may be told apart, and which share of one peak that is.

Runs are trained one after another, on a machine that is busier at one time than at another. So a difference in percent
is shown only where the spreads of the log intervals do not overlap, and where everything else that bears on speed is
recorded and equal. None of this touches the verdict on losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from vgpt.compare.metrics import FLOPS, stat
from vgpt.compare.rows import Row
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric, Tag
from vgpt.tracking.speed import HIGH, INTERVALS, LOW, recorded_speed

SPEED_PARAMS = (
    "batch_size",
    "grad_accum",
    "nproc",
    "nnodes",
    "parallel",
    "compile",
    "recompute",
    "tf32",
    "flash",
    "log_interval",
    "save_interval",
    "tracker",
)
SPEED_TAGS = {
    "device": Tag.DEVICE,
    "threads": Tag.THREADS,
    "cpu_capability": Tag.CPU_CAPABILITY,
    "allocator": Tag.ALLOCATOR,
    "kernels": Tag.KERNELS,
    "dtype": Tag.DTYPE,
    "torch": Tag.TORCH,
    "vgpt": Tag.VERSION,
    "source": Tag.SOURCE,
}
"""What bears on speed besides the variant, and must be recorded and equal: settings, and facts by their tags."""

WITHIN = "within spread"
PALM_FLOPS = Metric.FLOPS_TRAIN_PER_TOKEN_PALM


@dataclass(frozen=True)
class RowSpeed:
    """Training tokens per second of a row.

    Attributes:
        tokens_per_second: mean over the runs of their medians.
        low: the lowest 5th percentile of any run's intervals; None where a run has too few to tell.
        high: the highest 95th percentile; likewise.
        intervals: log intervals of all runs.
        from_logs: whether all runs recorded a median; older ones have a mean over all their steps.
    """

    tokens_per_second: float
    low: float | None
    high: float | None
    intervals: int
    from_logs: bool


@dataclass(frozen=True)
class SpeedChange:
    """A row's speed against the baseline's: `share` is the quotient minus 1, or None, and `why` says why not."""

    share: float | None
    why: str = ""


@dataclass(frozen=True)
class CommonPeak:
    """The peak FLOP/s that MFU is a share of in runs of one device and precision; `source` as in `vgpt.peak_source`."""

    flops: float
    source: str


def row_speed(row: Row) -> RowSpeed | None:
    """Return the speed of a row; None where no run recorded one."""
    found = [(run, value, logged) for run in row.runs for value, logged in [recorded_speed(run.metrics)]]
    known = [(run, value, logged) for run, value, logged in found if math.isfinite(value)]
    if not known:
        return None
    spread = all(LOW in run.metrics and HIGH in run.metrics for run, _, _ in known)
    return RowSpeed(
        tokens_per_second=fmean(value for _, value, _ in known),
        low=min(run.metrics[LOW] for run, _, _ in known) if spread else None,
        high=max(run.metrics[HIGH] for run, _, _ in known) if spread else None,
        intervals=round(sum(run.metrics.get(INTERVALS, 0.0) for run, _, _ in known)),
        from_logs=all(logged for _, _, logged in known),
    )


def speed_change(row: Row, baseline: Row) -> SpeedChange:
    """Return how much faster a row was than the baseline, if that may be said."""
    here, there = row_speed(row), row_speed(baseline)
    if here is None or there is None or there.tokens_per_second <= 0:
        return SpeedChange(None, "not recorded")
    if here.low is None or here.high is None or there.low is None or there.high is None:
        return SpeedChange(None, "no spread recorded")
    if fact := _unequal_fact([*row.runs, *baseline.runs]):
        return SpeedChange(None, fact)
    if here.low <= there.high and there.low <= here.high:
        return SpeedChange(None, WITHIN)
    return SpeedChange(here.tokens_per_second / there.tokens_per_second - 1)


def common_peaks(rows: Sequence[Row]) -> dict[tuple[str, str], CommonPeak]:
    """Return one peak for the runs of each device and precision: its published one, or else the largest measured.

    A measurement reads too low while the machine is busy, never too high.
    """
    found: dict[tuple[str, str], CommonPeak] = {}
    for run in (run for row in rows for run in row.runs):
        flops, source = run.metrics.get(Metric.FLOPS_PEAK, math.nan), run.tags.get(Tag.PEAK_SOURCE, "")
        if not (math.isfinite(flops) and flops > 0):
            continue
        before = found.get(_kind(run))
        rank = (source == "published", flops)
        if before is None or rank > (before.source == "published", before.flops):
            found[_kind(run)] = CommonPeak(flops, source)
    return found


def utilization(row: Row, rows: Sequence[Row], per_token: str = FLOPS) -> float | None:
    """Return a row's MFU by the peaks of all `rows`; None where a part of it is not recorded.

    Args:
        row: the row.
        rows: all that it is compared with.
        per_token: the FLOPs of a token that count: the variant's own, or those of the PaLM convention.
    """
    speed, flops, peaks = row_speed(row), stat(row, per_token), common_peaks(rows)
    shared = {_kind(run): _processes(run) for run in row.runs}
    if speed is None or flops is None or len(shared) != 1:
        return None
    ((kind, processes),) = shared.items()
    return speed.tokens_per_second * flops.mean / (peaks[kind].flops * processes) if kind in peaks else None


def _unequal_fact(runs: Sequence[RunInfo]) -> str:
    """Name the first fact that is not equal or not recorded; empty where there is none."""
    reads = {name: [run.params.get(name, "") for run in runs] for name in SPEED_PARAMS}
    reads |= {name: [run.tags.get(tag, "") for run in runs] for name, tag in SPEED_TAGS.items()}
    reads["attention_backend"] = [run.attention_backend for run in runs]
    for name, values in reads.items():
        if not all(values):
            return f"{name} not recorded"
        if len(set(values)) > 1:
            return f"≠ {name}"
    return ""


def _kind(run: RunInfo) -> tuple[str, str]:
    return run.tags.get(Tag.DEVICE, ""), run.tags.get(Tag.DTYPE, "")


def _processes(run: RunInfo) -> int:
    numbers = [run.params.get(name, "1") for name in ("nproc", "nnodes")]
    return math.prod(int(number) if number.isdecimal() else 1 for number in numbers)
