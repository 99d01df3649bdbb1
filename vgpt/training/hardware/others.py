"""What other processes take of the processors that this one may use."""

import os
import time
from dataclasses import dataclass

import psutil

from vgpt.threads import bound_cpus


@dataclass(frozen=True)
class Processors:
    """A reading of the clock and of the processors' clocks, in seconds since some moment of the past.

    Attributes:
        wall: time.
        own: processor time of this process, over all its threads.
        busy: processor time of all processes together, on the CPUs that this one is bound to; None where the system
            does not say.
    """

    wall: float
    own: float
    busy: float | None


def read_processors() -> Processors:
    """Return a reading of now."""
    used = os.times()
    return Processors(time.perf_counter(), used.user + used.system, _busy())


def cores_of_others(before: Processors, after: Processors) -> float | None:
    """Return how many cores other processes used on average between two readings; None where it is not known."""
    if before.busy is None or after.busy is None:
        return None
    used = max(0.0, after.busy - before.busy) - (after.own - before.own)
    return max(0.0, used / max(1e-6, after.wall - before.wall))


def crowded(others: float | None, threads: int, cpus: int) -> float:
    """Return how many cores other processes take of those that this one computes with; 0 where that is not known."""
    return 0.0 if others is None else max(0.0, others - max(0, cpus - threads))


def _busy() -> float | None:
    """Seconds that the CPUs of this process have worked, for whomever; time that a host took from them counts too."""
    try:
        each = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError):
        return None
    bound = bound_cpus()
    mine = [times for cpu, times in enumerate(each) if cpu in bound]
    # Linux counts the time of guests in that of users already.
    return sum(sum(t) - t.idle - getattr(t, "iowait", 0.0) - getattr(t, "guest", 0.0) for t in mine)
