"""How many threads compute, and how long those that wait spin: long on a quiet machine, hardly at all beside others.

At the end of every operation the threads of OpenMP wait for each other. To spin there is the fastest on a quiet
machine, and the slowest beside other processes, which then cannot get the processor that a spinning thread holds; to
sleep at once is the other way round (benchmarks/README.md has both). So a thread looks every half second at what others
take of this process's processors, and switches.

GNU's library, which torch brings on Linux, knows two numbers of rounds: GOMP_SPINCOUNT, and 100 while more of its
threads exist in the process than there are processors (`gomp_throttled_spin_count_var` in libgomp's env.c and
config/linux/wait.h). It has no call that changes either. A second team of threads that sleeps, made for that purpose
alone, is what makes it take the smaller one. The teams that compute, and so every bit of the results, stay as they are.
"""

import ctypes
import threading
from pathlib import Path

import torch

from vgpt.threads import bound_cpus, spins_by_default, thread_count
from vgpt.training.hardware.others import cores_of_others, crowded, read_processors

INTERVAL = 0.5
"""Seconds between two looks; the kernel counts processor time in hundredths of one."""
CROWDED, QUIET = 0.25, 0.1
"""Cores that others take beyond those left idle, from which on and up to which threads spin shortly and long."""
QUIET_LOOKS = 4
"""Looks in a row that must be quiet before threads spin long again."""


class ShortWaits:
    """Has waiting threads spin shortly while it is on; may be switched at any time, from one thread.

    Args:
        library: path of the OpenMP library.
        threads: that compute in this process.
    """

    def __init__(self, library: str, threads: int) -> None:
        self._library = ctypes.CDLL(library)
        # One more thread of the library in all than it has processors: its waiting ones count, the first of a team not.
        self._team = max(2, int(self._library.omp_get_num_procs()) - threads + 2)
        self._off: threading.Event | None = None

    @property
    def on(self) -> bool:
        """Whether threads spin shortly now."""
        return self._off is not None

    def switch(self, on: bool) -> None:
        """Have threads spin shortly, or long."""
        if on and self._off is None:
            self._off, ready = threading.Event(), threading.Event()
            threading.Thread(target=self._hold, args=(self._off, ready), name="short waits", daemon=True).start()
            ready.wait(10)
        elif not on and self._off is not None:
            self._off.set()
            self._off = None

    def _hold(self, off: threading.Event, ready: threading.Event) -> None:
        """Make a team of threads that do nothing, `free(NULL)`; it lives as long as this thread."""
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._library.GOMP_parallel(nothing, None, self._team, 0)
        ready.set()
        off.wait()


def openmp_library(maps: Path = Path("/proc/self/maps")) -> str | None:
    """Return the path of the GNU OpenMP library that torch computes with; None where it uses another one."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = sorted({line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line.rpartition("/")[2]})
    folders = (Path(torch.__file__).parent, Path(torch.__file__).parents[1] / "torch.libs")
    own = [path for path in found if any(folder in Path(path).parents for folder in folders)] or found
    return own[0] if len(own) == 1 else None


_watched = threading.Lock()


def watch_waits(threads: int) -> bool:
    """Switch by what others do, from now on to the end of the process; return whether it does, now or already.

    Not where the environment says how threads wait, where one thread computes alone, nor with another OpenMP library.
    """
    library = openmp_library() if threads > 1 and spins_by_default() else None
    if library is None:
        return False
    if _watched.acquire(blocking=False):
        waits = ShortWaits(library, threads)
        threading.Thread(target=_watch, args=(waits, threads), name="watch of waits", daemon=True).start()
    return True


def _watch(waits: ShortWaits, threads: int) -> None:
    # The run's own process that brings its points to MLflow has a low priority: it waits for the threads that spin.
    quiet, before, pause = 0, read_processors(children=True), threading.Event()
    while True:
        pause.wait(INTERVAL)
        now = read_processors(children=True)
        taken = crowded(cores_of_others(before, now), threads, len(bound_cpus()))
        before, quiet = now, quiet + 1 if taken <= QUIET else 0
        if taken > CROWDED:
            waits.switch(True)
        elif quiet >= QUIET_LOOKS:
            waits.switch(False)


def use_threads(asked: int | None) -> None:
    """Have this process compute with the threads asked for; None for as many as it may keep busy.

    What OMP_NUM_THREADS or MKL_NUM_THREADS say stands where nothing is asked for.
    """
    # Before the first call torch's default is its own reckoning: physical cores, and what its process is bound to.
    count = thread_count(torch.get_num_threads(), asked)
    if count is not None and count != torch.get_num_threads():
        torch.set_num_threads(count)
    watch_waits(torch.get_num_threads())
