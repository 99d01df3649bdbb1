"""How fast a run trained, from its own log lines: the median over log intervals, with their spread.

One mean over a run hides that a busy machine slowed half of it. Intervals that begin a process are warm-up: the first
tenth, at least one, and the first after each resume. Evaluations and checkpoints are in no interval's time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from vgpt.tracking.journal import Point, read_events, read_metrics
from vgpt.tracking.schema import Metric

RATE = Metric.PERF_TOKENS_PER_SECOND
SPEED, LOW, HIGH = (
    Metric.SPEED_TOKENS_PER_SECOND,
    Metric.SPEED_TOKENS_PER_SECOND_LOW,
    Metric.SPEED_TOKENS_PER_SECOND_HIGH,
)
INTERVALS = Metric.SPEED_INTERVALS

WARM_UP = 0.1
"""Share of the intervals, the first ones, that are left out."""
LEAST = 5
"""With fewer intervals nothing is said of their spread."""


@dataclass(frozen=True)
class Speed:
    """Training tokens per second.

    Attributes:
        median: of the intervals.
        low: their 5th percentile; None of fewer than `LEAST`.
        high: their 95th percentile; likewise.
        intervals: how many count.
    """

    median: float
    low: float | None
    high: float | None
    intervals: int

    def metrics(self) -> dict[str, float]:
        """Return the figures under their names in the tracking schema."""
        found = {SPEED: self.median, LOW: self.low, HIGH: self.high, INTERVALS: float(self.intervals)}
        return {name: value for name, value in found.items() if value is not None}


def logged_speed(run_dir: Path) -> Speed | None:
    """Return the speed that a run's journal tells, that of all its processes; None where it holds no interval."""
    begun = {int(event.get("step", 0)) for event in read_events(run_dir) if event.get("kind") in ("started", "resumed")}
    return speed_of_points(read_metrics(run_dir), begun)


def speed_of_points(points: Iterable[Point], begun: Iterable[int] = (0,)) -> Speed | None:
    """Return the speed of log lines; of a step that was repeated, the last line counts.

    Args:
        points: of the journal.
        begun: steps at which a process took the run up.
    """
    rates = {
        point.step: point.metrics[RATE]
        for point in points
        if not point.summary and math.isfinite(point.metrics.get(RATE, math.nan))
    }
    return speed_of_rates(rates, begun)


def speed_of_rates(rates: Mapping[int, float], begun: Iterable[int] = (0,)) -> Speed | None:
    """Return the speed of logged rates by the step that ends their interval."""
    if not rates:
        return None
    steps = sorted(rates)
    starts, resumed = [0, *steps[:-1]], list(begun)
    whole = 0.5 * max(end - start for start, end in zip(starts, steps, strict=True))
    kept = [
        rates[end]
        for number, (start, end) in enumerate(zip(starts, steps, strict=True))
        # The last interval may be a short one, whose time is little more than noise.
        if number >= WARM_UP * len(steps)
        and number > 0
        and end - start >= whole
        and not any(start <= step < end for step in resumed)
    ]
    return _speed(kept or [rates[step] for step in steps])


def recorded_speed(metrics: Mapping[str, float]) -> tuple[float, bool]:
    """Return a run's tokens per second, and whether it is the median of its log.

    Runs of older versions have the mean over all their steps, which their tokens and seconds tell in every store.
    NaN where nothing is recorded.
    """
    if SPEED in metrics:
        return metrics[SPEED], True
    seconds = metrics.get(Metric.TRAIN_SECONDS, 0.0)
    if seconds > 0 and Metric.TRAIN_TOKENS in metrics:
        return metrics[Metric.TRAIN_TOKENS] / seconds, False
    return metrics.get(RATE, math.nan), False


def _speed(rates: Sequence[float]) -> Speed:
    if len(rates) < LEAST:
        return Speed(median(rates), None, None, len(rates))
    twentieths = quantiles(rates, n=20, method="inclusive")
    return Speed(median(rates), twentieths[0], twentieths[-1], len(rates))
