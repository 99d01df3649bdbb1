"""Metrics of a row, over its seeds, and against those of the baseline: by seed where seeds are shared."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from vgpt.compare.rows import Row
from vgpt.tracking import speed
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric

LOSS, LOSS_SE = Metric.VAL_LOSS, Metric.VAL_LOSS_SE
PERPLEXITY, BITS = Metric.VAL_PERPLEXITY, Metric.VAL_BITS_PER_BYTE
PARAMS = Metric.PARAMS_TOTAL
FLOPS = Metric.FLOPS_TRAIN_PER_TOKEN
SPEED = speed.SPEED
DECODE = Metric.PERF_DECODE_SECONDS
START_RMS = Metric.START_ATTENTION_RMS
MEMORY, PROCESS_MEMORY = Metric.MEMORY_TRAIN_BYTES, Metric.MEMORY_PEAK_BYTES
KV_TOKEN, KV_CONTEXT, KV_MEASURED = Metric.KV_BYTES_PER_TOKEN, Metric.KV_BYTES_AT_CONTEXT, Metric.KV_BYTES_MEASURED


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
    if metric == str(SPEED):
        return speed.recorded_speed(run.metrics)[0]
    if metric == str(MEMORY) and MEMORY not in run.metrics:
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


Method = Literal["paired", "unpaired", "single"]


@dataclass(frozen=True)
class Pairing:
    """Runs with their values of a metric on two sides; paired, they belong together one by one.

    Attributes:
        method: "paired" by seed; "unpaired", where seeds are not shared; "single", where one run stands alone.
        here: runs of the row.
        there: runs of the baseline.
    """

    method: Method
    here: tuple[tuple[RunInfo, float], ...]
    there: tuple[tuple[RunInfo, float], ...]

    @property
    def delta(self) -> float:
        """The difference of the two sides: paired, its mean within pairs."""
        return fmean(value for _, value in self.here) - fmean(value for _, value in self.there)

    @property
    def within(self) -> list[float]:
        """The differences within pairs."""
        return [value - other for (_, value), (_, other) in zip(self.here, self.there, strict=True)]


def pairing(row: Row, baseline: Row, metric: str) -> Pairing | None:
    """Return which finite values of a metric are compared; None where a side has none."""
    here, there = _values(row, metric), _values(baseline, metric)
    if not here or not there:
        return None
    by_seed = {run.seed: (run, value) for run, value in there}
    pairs = [(one, by_seed[seed]) for one in here if (seed := one[0].seed) in by_seed and seed != "?"]
    if len(pairs) > 1:
        return Pairing("paired", tuple(one for one, _ in pairs), tuple(other for _, other in pairs))
    if min(len(here), len(there)) > 1:
        return Pairing("unpaired", tuple(here), tuple(there))
    if pairs:
        return Pairing("single", (pairs[0][0],), (pairs[0][1],))
    return Pairing("single", tuple(here), tuple(there))


def _values(row: Row, metric: str) -> list[tuple[RunInfo, float]]:
    return [(run, value) for run in row.runs if math.isfinite(value := run.metrics.get(metric, math.nan))]
