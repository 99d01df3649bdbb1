"""Whether a measurement was disturbed: judged by what the operating system says of it, never by its own figure.

A judgment by the figure itself would drop slow measurements because they are slow, and make every subject fast.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vgpt.threads import bound_cpus
from vgpt.training.hardware.others import Processors, cores_of_others, crowded, read_processors

T = TypeVar("T")
OTHERS = 0.1
"""Cores that others may take of those that the subject needs."""
PRESSURE = 0.1
"""Share of the time in which some task may have waited for a processor."""
SWITCHES = 100.0
"""Times per second and thread that the subject may be made to give way."""
SLOWER = 0.75
"""Least share of its own usual use of processors that a subject may get."""
CLOCK = 0.95
"""Least share of the usual clock rate of a GPU."""


@dataclass(frozen=True)
class Evidence:
    """What the system says of a stretch of time; None where it does not say.

    Attributes:
        seconds: its length.
        own: cores that this process used on average.
        others: cores that other processes used of those that this one may use.
        pressure: share of the time in which a task waited for a processor (Linux: /proc/pressure/cpu).
        switches: times per second that a thread of this process had to give way.
        clock: clock rate of the GPU at the end, in MHz.
        strangers: other processes that had work on the GPU.
    """

    seconds: float
    own: float
    others: float | None = None
    pressure: float | None = None
    switches: float | None = None
    clock: float | None = None
    strangers: int = 0


@dataclass(frozen=True)
class Reason:
    """What disturbed a measurement: the kind of it, how much, and a sentence for people."""

    kind: str
    amount: float
    text: str


@dataclass
class Watch:
    """Measures, and says what disturbed a measurement.

    Attributes:
        threads: threads that compute.
        gpu: index of the GPU that computes, None on a CPU.
        cpus: CPUs that this process is bound to.
    """

    threads: int
    gpu: int | None = None
    cpus: int = field(default_factory=lambda: len(bound_cpus()))
    _usual: dict[str, float] = field(default_factory=dict[str, float])
    _clock: float = 0.0

    def measure(self, name: str, work: Callable[[], T]) -> tuple[T, list[Reason]]:
        """Do some work; return its result and what disturbed it."""
        before = _read_counters()
        result = work()
        return result, self.judge(name, evidence(before, _read_counters(), *_gpu(self.gpu)))

    def judge(self, name: str, found: Evidence) -> list[Reason]:
        """Return what disturbed a measurement of the subject `name`; nothing where it was left alone."""
        return self._judge_gpu(found) if self.gpu is not None else self._judge_cpu(name, found)

    def _judge_cpu(self, name: str, found: Evidence) -> list[Reason]:
        reasons: list[Reason] = []
        usual = self._usual[name] = max(self._usual.get(name, 0.0), found.own)
        others = found.others or 0.0
        if self._taken(found) > OTHERS:
            reasons.append(Reason("others", others, f"other processes used {others:.1f} cores"))
        if found.own < SLOWER * usual:
            share = found.own / usual
            reasons.append(Reason("slower", 1 - share, f"a variant got {share:.0%} of its usual processor time"))
        # Tasks may wait elsewhere, on other CPUs of a large machine, and threads of its own take turns too: both mean a
        # disturbance only where others work here.
        if others <= OTHERS / 2 and found.others is not None:
            return reasons
        if found.pressure is not None and found.pressure > PRESSURE:
            text = f"tasks waited for a processor {found.pressure:.0%} of the time"
            reasons.append(Reason("pressure", found.pressure, text))
        if found.switches is not None and found.switches > SWITCHES * self.threads:
            text = f"it had to give way {found.switches:.0f} times a second"
            reasons.append(Reason("switches", found.switches, text))
        return reasons

    def _judge_gpu(self, found: Evidence) -> list[Reason]:
        reasons: list[Reason] = []
        if found.clock is not None:
            self._clock = max(self._clock, found.clock)
            if found.clock < CLOCK * self._clock:
                text = f"the GPU ran at {found.clock:.0f} MHz instead of {self._clock:.0f}"
                reasons.append(Reason("clock", self._clock - found.clock, text))
        if found.strangers:
            reasons.append(Reason("strangers", found.strangers, f"{found.strangers} other processes used the GPU"))
        return reasons

    def _taken(self, found: Evidence) -> float:
        """Return the cores that others took of those it needs: the cores it leaves idle may do what they like."""
        return crowded(found.others, self.threads, self.cpus)

    def quiet(self, seconds: float) -> bool:
        """Look on for a while, at rest; return whether others leave the subject the processors it needs."""
        before = _read_counters()
        time.sleep(seconds)
        return self.gpu is not None or self._taken(evidence(before, _read_counters())) <= OTHERS


@dataclass(frozen=True)
class _Counters:
    used: Processors
    waited: float | None
    switches: int | None


def evidence(before: _Counters, after: _Counters, clock: float | None = None, strangers: int = 0) -> Evidence:
    """Return what happened between two readings."""
    seconds = max(1e-6, after.used.wall - before.used.wall)

    def rate(then: float | None, now: float | None) -> float | None:
        return None if then is None or now is None else max(0.0, now - then) / seconds

    return Evidence(
        seconds=seconds,
        own=(after.used.own - before.used.own) / seconds,
        others=cores_of_others(before.used, after.used),
        pressure=rate(before.waited, after.waited),
        switches=rate(before.switches, after.switches),
        clock=clock,
        strangers=strangers,
    )


def _read_counters() -> _Counters:
    return _Counters(read_processors(), _waited(), _switches())


def _waited(path: Path = Path("/proc/pressure/cpu")) -> float | None:
    """Seconds in which some task waited for a CPU since the machine started: `some avg10=... total=MICROSECONDS`."""
    try:
        words = path.read_text(encoding="ascii").split()
        return next(int(word.removeprefix("total=")) for word in words if word.startswith("total=")) / 1e6
    except (OSError, ValueError, StopIteration):
        return None


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _gpu(index: int | None) -> tuple[float | None, int]:
    """Return the clock rate of a GPU in MHz and how many other processes work on it, by nvidia-smi."""
    program = None if index is None else shutil.which("nvidia-smi")
    if program is None:
        return None, 0
    clock = _ask(program, index, "--query-gpu=clocks.sm")
    users = _ask(program, index, "--query-compute-apps=pid")
    found = [word for word in clock if word.replace(".", "", 1).isdecimal()]
    strangers = sum(word.isdecimal() and int(word) != os.getpid() for word in users)
    return (float(found[0]) if found else None), strangers


def _ask(program: str, index: int | None, query: str) -> list[str]:
    words = [program, f"--id={index}", query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
