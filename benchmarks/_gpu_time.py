"""Time on a GPU: by events on the device, subjects in turn; on a CPU by the clock, to try the scripts."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def on_gpu() -> bool:
    """Return whether there is a CUDA device."""
    return torch.cuda.is_available()


def milliseconds(work: Callable[[], Any]) -> float:
    """Return how long work takes on the device."""
    if not on_gpu():
        begun = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - begun)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def median_ms(work: Callable[[], Any], times: int = 10, warm_up: int = 3) -> float:
    """Return the median of several measurements in milliseconds."""
    for _ in range(warm_up):
        work()
    return statistics.median(milliseconds(work) for _ in range(times))


class Turns:
    """Subjects measured once per round, in an order that turns.

    Args:
        subjects: by name, what is measured.
        rounds: how many.
        steps: calls per measurement.
        warm_up: calls before.
    """

    def __init__(
        self, subjects: dict[str, Callable[[], Any]], rounds: int = 10, steps: int = 1, warm_up: int = 3
    ) -> None:
        for work in subjects.values():
            for _ in range(warm_up):
                work()
        names = list(subjects)
        self.ms: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for shift in range(len(names)):
                name = names[(turn + shift) % len(names)]
                taken = milliseconds(lambda work=subjects[name]: [work() for _ in range(steps)])
                self.ms[name].append(taken / steps)

    def rates(self, amount: float) -> dict[str, dict[str, float]]:
        """Return `amount` per second of each subject: median, lowest and highest round."""
        found = {}
        for name, taken in self.ms.items():
            rates = sorted(1e3 * amount / ms for ms in taken)
            found[name] = {"median": round(statistics.median(rates)), "low": round(rates[0]), "high": round(rates[-1])}
        return found
