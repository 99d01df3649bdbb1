"""Measuring on a machine that others use too: a measurement they disturbed is thrown away and made again.

What decides is the processor time that other processes took meanwhile, never the figure itself.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
_LOOK = 1.0


@dataclass
class Quiet:
    """Repeats measurements until other processes left the machine alone.

    Args:
        limit: cores that others may use on average while a measurement runs.
        patience: seconds that the whole benchmark may wait for that; then every measurement is taken as it comes.
        kept: the cores that others used during every measurement that counts.
        thrown_away: measurements that were made again.
        disturbed: measurements that count although others used more than the limit.
    """

    limit: float = 0.1
    patience: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    kept: list[float] = field(default_factory=list[float])
    thrown_away: int = 0
    disturbed: int = 0

    def measure(self, measurement: Callable[[], T]) -> T:
        """Return the result of an undisturbed measurement."""
        while True:
            while self._patient() and _others(lambda: time.sleep(_LOOK))[1] > self.limit:
                pass
            result, others = _others(measurement)
            if others <= self.limit or not self._patient():
                self.kept.append(round(others, 3))
                self.disturbed += others > self.limit
                return result
            self.thrown_away += 1

    def report(self) -> dict[str, Any]:
        """Return what is written beside the results."""
        return {
            "limit_cores": self.limit,
            "measurements": len(self.kept),
            "disturbed": self.disturbed,
            "thrown_away": self.thrown_away,
            "others_cores_mean": round(sum(self.kept) / max(1, len(self.kept)), 3),
        }

    def _patient(self) -> bool:
        return time.monotonic() - self.begun < self.patience


def _others(work: Callable[[], T]) -> tuple[T, float]:
    """Do some work; return its result and how many cores other processes used meanwhile."""
    began, busy, own = time.monotonic(), _busy(), _own()
    result = work()
    seconds = max(1e-3, time.monotonic() - began)
    return result, max(0.0, _busy() - busy - (_own() - own)) / seconds


def _busy() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
