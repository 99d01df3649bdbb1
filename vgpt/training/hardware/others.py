"""What other processes take of the processors that this one may use."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

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


def read_processors(*, children: bool = False) -> Processors:
    """Return a reading of now.

    Args:
        children: count what processes use that this one started, and that have ended or still run, as its own.
    """
    used = os.times()
    own = used.user + used.system
    if children:
        own += used.children_user + used.children_system + sum(map(_seconds_of, _running_children()))
    return Processors(time.perf_counter(), own, _busy())


def cores_of_others(before: Processors, after: Processors) -> float | None:
    """Return how many cores other processes used on average between two readings; None where it is not known."""
    if before.busy is None or after.busy is None:
        return None
    used = max(0.0, after.busy - before.busy) - (after.own - before.own)
    return max(0.0, used / max(1e-6, after.wall - before.wall))


def crowded(others: float | None, threads: int, cpus: int) -> float:
    """Return how many cores other processes take of those that this one computes with; 0 where that is not known."""
    return 0.0 if others is None else max(0.0, others - max(0, cpus - threads))


def _running_children() -> list[int]:
    """Return the processes that threads of this one started; none where Linux does not list them."""
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, task.read_text(encoding="ascii").split())
    return found


def _seconds_of(process: int) -> float:
    """Return the processor time of a process so far; 0 for one that has ended by now, which `os.times` counts."""
    try:
        used = psutil.Process(process).cpu_times()
    except psutil.Error:
        return 0.0
    return used.user + used.system


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
