"""The trainer's side of the mirror to MLflow, and the delivery of what it could not bring in time.

The mirror is a process, not a thread: importing MLflow and creating its store take seconds of Python, and a thread
that does so holds the interpreter's lock that every training step needs (`benchmarks/tracking.py` measures both).
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vgpt.errors import TrackingError
from vgpt.files.paths import run_argument
from vgpt.tracking.lock import FileLock, lock_owner
from vgpt.tracking.mlflow_store.delivery import Delivery, undelivered
from vgpt.tracking.mlflow_store.reasons import StoreError
from vgpt.tracking.mlflow_store.target import Target, resolve_target
from vgpt.tracking.mlflow_store.worker import FINISH, SYNC_LOCK_FILE, raise_priority
from vgpt.tracking.record import read_record

DEADLINE = 10.0
# Libraries that MLflow imports would start threads of their own.
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGE_PARENT = Path(__file__).resolve().parents[3]


class Mirror:
    """A mirror process, which `start` begins.

    Args:
        run_dir: the run's directory; tracking.json is there before the start.
        target: the store to mirror to.
        deadline: seconds the mirror may take after the end of the run.
    """

    def __init__(self, run_dir: Path, target: Target, *, deadline: float = DEADLINE) -> None:
        self._run_dir = run_dir
        self._target = target
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._words = -1
        self._heard = b""

    def start(self) -> None:
        """Start the process where it does not run yet: once there is something to bring.

        Its start takes seconds of a processor, which the first steps of training are spared.

        Raises:
            OSError: no process can be started.
        """
        if self._process is not None:
            return
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_PACKAGE_PARENT)]))
        # -P: a file named like a library in the working directory is not imported. A session of its own: Ctrl-C stops
        # the trainer, which then tells the mirror how the run ended.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "vgpt.tracking.mlflow_store.worker",
                str(self._run_dir),
                str(os.getpid()),
                str(self._deadline),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | self._target.environment | {"PYTHONPATH": path} | dict.fromkeys(_POOLS, "1"),
        )
        assert self._process.stdout is not None
        self._words = self._process.stdout.fileno()
        os.set_blocking(self._words, False)

    def messages(self) -> list[str]:
        """Return what the mirror has said since the last call, without waiting."""
        if self._process is None:
            return []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._words, 4096):
                self._heard += chunk
        *lines, self._heard = self._heard.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def finish(self) -> list[str]:
        """Let the mirror deliver the rest, at most until the deadline; return what is left to tell.

        Raises:
            OSError: it did not run yet, and cannot be started.
        """
        end = time.monotonic() + self._deadline
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        # It may be in the midst of importing MLflow, and read the word only after that: training is over, so hurry.
        raise_priority(process.pid)
        with contextlib.suppress(OSError):
            process.stdin.write(FINISH)
            process.stdin.close()
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        notes = self.messages()
        assert process.stdout is not None
        process.stdout.close()
        missing = undelivered(self._run_dir, self._target)
        if missing or process.returncode:
            what = f"{missing} points are" if missing else "the end of the run is"
            remedy = f"`vgpt sync {run_argument(self._run_dir)}` delivers"
            notes.append(f"{what} not yet in MLflow at {self._target.shown}; {remedy}")
        return notes


class BusyError(TrackingError):
    """The run is being trained, or delivered by another process, which brings what is missing."""


class UnreachableError(TrackingError):
    """The store does not answer; another run that goes there would fare no better."""


@dataclass(frozen=True)
class Synced:
    """What a delivery did: the run's id in the store, the number of values sent, and the store in words."""

    run_id: str
    sent: int
    store: str


def sync_run(
    run_dir: Path, *, tracking_uri: str | None = None, notify: Callable[[str], None] = lambda text: None
) -> Synced:
    """Deliver to MLflow what a run's mirror could not; what is there already is not sent again.

    The store is the given one, else the environment's or `.env`'s, else the one the run was started with.

    Raises:
        BusyError: it is being trained or delivered.
        UnreachableError: the store fails; what was sent before stays sent.
        TrackingError: there is no run, or the store refuses it.
    """
    record = read_record(run_dir)
    if record is None:
        raise TrackingError(f"{run_dir} is no run: it has no readable tracking.json", "Name a run, or its directory.")
    target = resolve_target(tracking_uri, recorded=record.store or None)
    owner = lock_owner(run_dir)
    lock = FileLock(run_dir / SYNC_LOCK_FILE)
    try:
        if owner is not None or not lock.acquire():
            who = f"trained by {owner}" if owner is not None else "delivered by another process"
            raise BusyError(
                f"run {record.run_name!r} is being {who}", "Its mirror delivers; try again when it has ended."
            )
        delivery = Delivery(run_dir, target, notify)
        sent = delivery.step(ended_as="killed")
        return Synced(delivery.run_id, sent, target.shown)
    except (StoreError, OSError) as error:
        kind = UnreachableError if isinstance(error, StoreError) and not error.refused else TrackingError
        raise kind(
            f"MLflow at {target.shown}: {target.redact(str(error))}",
            "Try again when it answers, or set MLFLOW_TRACKING_URI=sqlite:///mlflow.db to deliver elsewhere.",
        ) from None
    finally:
        lock.release()
