"""How many threads a process computes with, and what they do while they wait: free of torch, to be settled before it.

Threads that spin while they wait for each other take the processor from everybody else, and where others take it from
one of them, all wait: two trainings on one machine then slow each other down fifty-fold. Threads that sleep at once pay
for being woken at every operation instead, which costs small models up to 40% on an idle machine. So they spin for a
tenth of a millisecond and then sleep; vgpt.training.hardware.threads has them sleep at once beside other work.
And more threads than the machine lends this process (CPU affinity, cgroup quotas) only wait for each other.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

# What users say of waiting threads: to all OpenMP libraries, to GNU's, and to Intel's and LLVM's, which read the first
# one as well.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_SHORT_WAIT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Rounds of a spinning thread of GNU's library, a tenth of a millisecond in all; milliseconds of Intel's and LLVM's."""
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SHARERS = "LOCAL_WORLD_SIZE"


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have waiting threads sleep soon, unless the environment says already how they wait.

    It counts for the OpenMP libraries that are loaded from now on, in this process and in those it starts.
    """
    if not any(name in environment for name in _WAITING):
        environment.update(_SHORT_WAIT)


def spins_by_default(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether waiting threads spin as `wait_asleep` has it, and not as a user's environment says."""
    return {name: environment[name] for name in _WAITING if name in environment} == _SHORT_WAIT


def thread_count(
    default: int, asked: int | None = None, *, environment: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> int | None:
    """Return the number of threads that this process should compute with; None to leave the library's own choice.

    A number that was asked for goes before the environment's OMP_NUM_THREADS and MKL_NUM_THREADS, and these before the
    automatic one: the library's default, but no more than the CPUs that this process may use. Processes that a launcher
    started together on this machine (LOCAL_WORLD_SIZE) share both the number asked for and the automatic one.

    Args:
        default: what the library would take: often the number of physical cores.
        asked: threads of all processes of the run on this machine.
        environment: variables of this process.
        root: where /proc and /sys lie.
    """
    if asked is None and any(environment.get(name) for name in _COUNTS):
        return None
    count = environment.get(_SHARERS, "")
    sharers = max(1, int(count)) if count.isdecimal() else 1
    return max(1, (min(default, usable_cpus(root)) if asked is None else asked) // sharers)


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs that this process may keep busy: those it is bound to, and no more than its quota pays for.

    A quota of one and a half counts as one: of two threads each would be stopped for a quarter of the time.
    """
    bound = len(bound_cpus())
    quota = cpu_quota(root)
    return bound if quota is None else max(1, min(bound, int(quota + 1e-6)))


def bound_cpus() -> set[int]:
    """Return the numbers of the CPUs that this process is bound to."""
    return set(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs' worth of time that control groups grant this process; None without a limit.

    Groups are nested, and the tightest limit counts. Both versions of the interface may be mounted at once.
    """
    limits = [*_limits_v2(root), *_limits_v1(root)]
    return min(limits, default=None)


def _limits_v2(root: Path) -> Iterator[float]:
    for folder in _folders(root, "cgroup2", ""):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]) / int(words[1])


def _limits_v1(root: Path) -> Iterator[float]:
    for folder in _folders(root, "cgroup", "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal():  # without a limit the quota is -1
            yield int(quota) / int(period)


def _folders(root: Path, filesystem: str, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group and of those around it, as far as they are to be seen from here."""
    path = _group(root, controller)
    for inside, place in _mounts(root, filesystem, controller):
        # A container may see only its own part of the tree, under the path that this part has outside.
        seen = path.relative_to(inside) if path.is_relative_to(inside) else PurePosixPath(*path.parts[1:])
        base = root / place.relative_to("/")
        here = base / seen
        if ".." in seen.parts or not here.is_dir():
            here = base
        yield here
        while here != base:
            here = here.parent
            yield here


def _group(root: Path, controller: str) -> PurePosixPath:
    """Return the path of this process's group; that of version 2 has no controllers in its line."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") if controller else line.startswith("0::"):
            return PurePosixPath(path)
    return PurePosixPath("/")


def _mounts(root: Path, filesystem: str, controller: str) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Yield (path of the group that is mounted, place of the mount); proc_pid_mountinfo(5) describes the lines."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, about = before.split(), after.split()
        if len(fields) < 5 or not about or about[0] != filesystem:
            continue
        if not controller or controller in about[-1].split(","):
            yield PurePosixPath(fields[3]), PurePosixPath(fields[4])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
