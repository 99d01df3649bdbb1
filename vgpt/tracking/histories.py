"""What a run kept of its losses, from its directory or MLflow: its course, and the last evaluation by windows."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgpt.errors import TrackingError
from vgpt.tracking.journal import Point, read_metrics
from vgpt.tracking.record import WINDOWS_FILE, WindowLosses, parse_window_losses
from vgpt.tracking.run_file import RunFileReader
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric
from vgpt.tracking.store import READ_TIMEOUT, StoreReader, directory_on_this_machine

TRAIN_LOSS, LOSS, LOSS_SE, BITS = Metric.TRAIN_LOSS, Metric.VAL_LOSS, Metric.VAL_LOSS_SE, Metric.VAL_BITS_PER_BYTE
RATE = Metric.PERF_TOKENS_PER_SECOND
_MODEST: tuple[str, ...] = (TRAIN_LOSS, LOSS, RATE)
"""What is asked of MLflow for curves; the noise and the bits of an evaluation are asked for where one is picked."""


@dataclass(frozen=True)
class Reading:
    """One value of a run's metrics.

    Attributes:
        step: optimizer steps before it.
        value: the metric.
        tokens: tokens trained on before it; None where the record does not tell.
        seconds: training time before it; None where the record does not tell.
    """

    step: int
    value: float
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class History:
    """The course of a run, by step; values that are not finite are left out.

    Attributes:
        train: losses of training steps, nats per token.
        evaluations: losses on the fixed evaluation windows, nats per token.
        others: further metrics of the evaluations: metric -> value by step.
    """

    train: tuple[Reading, ...] = ()
    evaluations: tuple[Reading, ...] = ()
    others: dict[str, dict[int, float]] | None = None

    def at(self, metric: str, step: int) -> float | None:
        """Return a further metric of the evaluation at a step."""
        return (self.others or {}).get(metric, {}).get(step)


class HistoryReader:
    """Finds the courses of runs: in the journals of this machine first, then in MLflow. Each run is read once.

    A store that cannot be read is asked once and then no more; `failure` says why.

    Args:
        mlflow: whether to ask MLflow at all.
        tracking_uri: the store; None for the environment's or the default one.
        details: also read what goes with an evaluation: its standard error and bits per byte.
        timeout: seconds that one answer may take.
    """

    def __init__(
        self, *, mlflow: bool, tracking_uri: str | None = None, details: bool = False, timeout: float = READ_TIMEOUT
    ) -> None:
        self.failure = ""
        self._mlflow = mlflow
        self._store = StoreReader(tracking_uri, timeout)
        self._keys = (*_MODEST, LOSS_SE, BITS) if details else _MODEST
        self._read: dict[tuple[str, str, str], History] = {}

    def __call__(self, run: RunInfo) -> History:
        """Return the course of a run; an empty one where none is within reach."""
        key = (run.id, run.run_id, run.run_name)
        if key not in self._read:
            self._read[key] = self._journal(run) or self._stored(run)
        return self._read[key]

    def _journal(self, run: RunInfo) -> History | None:
        directory = directory_on_this_machine(run)
        points = [] if directory is None else read_metrics(directory)
        return _of_points(points) if any(LOSS in point.metrics for point in points) else None

    def _stored(self, run: RunInfo) -> History:
        if not (self._mlflow and run.run_id):
            return History()
        try:
            found = {key: self._store.history(run.run_id, key) for key in self._keys}
        except TrackingError as error:
            self._mlflow, self.failure = False, error.message
            return History()
        return _of_metrics(run, found)


def _of_points(points: Sequence[Point]) -> History:
    """Return the course that a journal tells; the last value of a step counts, since a resumed run repeats steps."""

    def readings(key: str) -> tuple[Reading, ...]:
        found = {
            point.step: Reading(point.step, point.metrics[key], point.tokens, point.seconds)
            for point in points
            if key in point.metrics and not point.summary and math.isfinite(point.metrics[key])
        }
        return tuple(found[step] for step in sorted(found))

    others: dict[str, dict[int, float]] = {
        key: {reading.step: reading.value for reading in readings(key)} for key in (LOSS_SE, BITS)
    }
    return History(readings(TRAIN_LOSS), readings(LOSS), others)


def _of_metrics(run: RunInfo, found: dict[str, list[tuple[int, float]]]) -> History:
    """Return the course that metrics alone tell: tokens follow from steps, and training time from tokens per second."""
    steps, tokens = run.metrics.get(Metric.TRAIN_STEPS, 0.0), run.metrics.get(Metric.TRAIN_TOKENS, 0.0)
    per_step = tokens / steps if steps > 0 else 0.0
    clock = _Clock(found[RATE], per_step)

    def readings(key: str) -> tuple[Reading, ...]:
        latest = {step: value for step, value in found.get(key, []) if math.isfinite(value)}
        plain = [Reading(step, value) for step, value in sorted(latest.items())]
        if not per_step:
            return tuple(plain)
        return tuple(replace(one, tokens=round(one.step * per_step), seconds=clock.at(one.step)) for one in plain)

    others: dict[str, dict[int, float]] = {key: dict(values) for key, values in found.items() if key in (LOSS_SE, BITS)}
    return History(readings(TRAIN_LOSS), readings(LOSS), others)


class _Clock:
    """Training time by step: each logged rate is that of the steps since the last one."""

    def __init__(self, rates: Sequence[tuple[int, float]], tokens_per_step: float) -> None:
        self._steps, self._seconds = [0], [0.0]
        for step, rate in sorted(dict(rates).items()):
            if step > self._steps[-1] and rate > 0 and math.isfinite(rate):
                self._seconds.append(self._seconds[-1] + (step - self._steps[-1]) * tokens_per_step / rate)
                self._steps.append(step)

    def at(self, step: int) -> float | None:
        """Return the time at a step, between two logged ones by proportion; None beyond the last."""
        after = bisect_left(self._steps, step)
        if after == len(self._steps):
            return None
        if self._steps[after] == step:
            return self._seconds[after]
        share = (step - self._steps[after - 1]) / (self._steps[after] - self._steps[after - 1])
        return self._seconds[after - 1] + share * (self._seconds[after] - self._seconds[after - 1])


class WindowReader(RunFileReader[WindowLosses | None]):
    """Finds the window losses of runs; None where none were kept or none are within reach.

    A comparison does without what a store does not tell, and every row of it is held against the same baseline.
    """

    file, what = WINDOWS_FILE, "window losses"

    def read(self, run: RunInfo, content: bytes | None) -> WindowLosses | None:
        """Return the window losses that a file holds."""
        return None if content is None else parse_window_losses(content)
