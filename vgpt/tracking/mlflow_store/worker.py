"""The mirror process: `python -m vgpt.tracking.mlflow_store.worker RUN_DIR`, started by the trainer beside itself.

It reads the run directory and writes to MLflow, at low priority. It learns of the end of the run by the word `finish`
on its standard input, or by the death of its parent, and leaves within the deadline either way. What the user should
hear, it says line by line on standard output; the trainer passes it on.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from vgpt.tracking.lock import FileLock
from vgpt.tracking.mlflow_store.delivery import Delivery
from vgpt.tracking.mlflow_store.reasons import StoreError
from vgpt.tracking.mlflow_store.target import Target, resolve_target

SYNC_LOCK_FILE = "mlflow_sync.lock"
FINISH = b"finish\n"
# Longer pauses make fewer, larger batches: MLflow costs the same per request whatever its size.
POLL_SECONDS = 2.0
_BACKOFF = (0.5, 1.0, 2.0, 4.0)
_NICE = 10
_LOWEST = 19


class Worker:
    """Delivers until the run is over; see the module."""

    def __init__(self, run_dir: Path, target: Target, parent: int, deadline: float) -> None:
        self._run_dir = run_dir
        self._target = target
        self._parent = parent
        self._deadline = deadline
        self._delivery: Delivery | None = None
        self._failures = 0
        self._ending = False
        self._orphaned = False

    def run(self) -> None:
        """Deliver until nothing is left to deliver, or time is up."""
        lock = FileLock(self._run_dir / SYNC_LOCK_FILE)
        while not lock.acquire():
            # The mirror of the same run's previous process is still leaving.
            if self._wait(0.1):
                self._end()
        while True:
            ending = self._ending
            done = self._try()
            if ending and done:
                return
            pause = POLL_SECONDS if done else _BACKOFF[min(self._failures, len(_BACKOFF)) - 1]
            if self._ending:
                time.sleep(min(pause, 0.5))
            elif self._wait(pause):
                self._end()

    def _try(self) -> bool:
        """Deliver what is new; say once that MLflow fails, and once that it is back."""
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._run_dir, self._target, notify)
            self._delivery.step(ended_as="killed" if self._orphaned else None)
        except (StoreError, OSError) as error:
            self._failures += 1
            if self._failures == 1:
                notify(f"MLflow at {self._target.shown}: {error}; the run goes on, its journal keeps everything")
            return False
        if self._failures:
            notify(f"MLflow at {self._target.shown} answers again; it has everything up to now")
        self._failures = 0
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait; True as soon as the run is over, by word or by death of the trainer."""
        if self._ending:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([0], [], [], seconds)
        word = os.read(0, len(FINISH)) if ready else None
        if word == FINISH:
            return True
        # A fork of the trainer may keep the pipe open after its death, so the parent is watched too.
        self._orphaned = word == b"" or os.getppid() != self._parent
        return self._orphaned

    def _end(self) -> None:
        """From here on hurry, and die of the alarm if MLflow blocks past the deadline."""
        self._ending = True
        signal.alarm(int(self._deadline) + 2)
        raise_priority(os.getpid())


def raise_priority(pid: int) -> None:
    """Give a mirror the priority of any other process, as far as this user may."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)
    _set_session_priority(pid, 0)


def _hurry_as_orphan(parent: int) -> None:
    """Raise the priority as soon as the trainer is dead, which the main thread may learn of only after an import."""
    while os.getppid() == parent:
        time.sleep(0.5)
    raise_priority(os.getpid())


def _set_session_priority(pid: int, nice: int) -> None:
    """Set the priority of a process's session where Linux shares time between sessions first (sched(7), autogroup).

    A mirror has a session of its own, in which its own priority alone would mean nothing to the trainer.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")


def notify(text: str) -> None:
    """Send a line to the trainer; one that cannot be sent is lost, not waited for."""
    with contextlib.suppress(OSError):
        os.write(1, text.replace("\n", " ").encode(errors="replace") + b"\n")


def main(arguments: list[str]) -> None:
    """Run the mirror of `RUN_DIR PARENT DEADLINE`; the store comes through MLFLOW_TRACKING_URI in the environment."""
    run_dir, parent, deadline = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    os.set_blocking(1, False)
    os.nice(_NICE)
    _set_session_priority(os.getpid(), _LOWEST)
    threading.Thread(target=_hurry_as_orphan, args=(parent,), daemon=True).start()
    # MLflow's own prints must not reach the trainer's messages.
    sys.stdout = sys.stderr
    Worker(run_dir, resolve_target(os.environ["MLFLOW_TRACKING_URI"]), parent, deadline).run()
    # MLflow's exit handlers may wait for the network; all that matters is already on disk.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
