"""Locks held by open files: a crash or kill -9 of the holder frees them, so no lock is ever stale.

Where the file system has no locks, the signature in the file stands for one: it holds while its process lives on this
machine. Of processes on other machines nothing is known there, which `FileLock.note` says.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from vgpt.errors import UsageError
from vgpt.files.locks import Lock, lock_file
from vgpt.tracking.lines import read_json

RUN_LOCK_FILE = "run.lock"
_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Owner:
    """Who holds a lock; `started` is local time as text. Fields are empty where the holder has not yet signed."""

    pid: int = 0
    host: str = ""
    started: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}" if self.pid else "another process"


class FileLock:
    """An exclusive lock on a file, for one process at a time; the file stays when the lock is freed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._signed = False

    @property
    def note(self) -> str:
        """What the holder should hear: that nothing but a signature is there; empty where a lock is held."""
        if not self._signed:
            return ""
        return f"the file system of {self.path.parent} has no locks: do not use it from another machine at a time"

    def acquire(self, *, timeout: float = 0.0) -> bool:
        """Take the lock and sign the file; False where another holds it for longer than `timeout` seconds.

        Raises:
            OSError: the file cannot be created or written.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            lock = lock_file(fd, timeout=timeout)
            if lock is Lock.BUSY or (lock is Lock.UNSUPPORTED and _living_signer(self.path)):
                os.close(fd)
                return False
            self._signed = lock is Lock.UNSUPPORTED
            owner = Owner(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(asdict(owner)).encode() + b"\n")
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Free the lock; a second call does nothing."""
        if self._fd >= 0:
            if self._signed:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


class RunLock(FileLock):
    """The lock that a trainer holds on its run directory, as a context manager.

    Raises on entry:
        UsageError: another process trains the same run; the message says which.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / RUN_LOCK_FILE)

    def __enter__(self) -> "RunLock":
        # A reader that probes the lock holds it for an instant, so the first refusal is not yet believed.
        if not self.acquire(timeout=_GRACE_SECONDS):
            name = self.path.parent.name
            raise UsageError(
                f"run {name!r} is being trained by {lock_owner(self.path.parent) or Owner()}",
                "Wait for it to end, stop it, or choose another --run-name.",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_owner(run_dir: Path) -> Owner | None:
    """Return who trains the run in `run_dir` now, or None where nobody does."""
    path = run_dir / RUN_LOCK_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        lock = lock_file(fd, shared=True)
    finally:
        os.close(fd)
    if lock is Lock.UNSUPPORTED:
        return _living_signer(path)
    return _signer(path) if lock is Lock.BUSY else None


def _signer(path: Path) -> Owner:
    with contextlib.suppress(TypeError):
        return Owner(**(read_json(path) or {}))
    return Owner()


def _living_signer(path: Path) -> Owner | None:
    """Return who signed a lock file, if that process lives here: it is older than its signature."""
    signer = _signer(path)
    pid: Any = vars(signer)["pid"]  # of a file that anybody may have written
    if not isinstance(pid, int) or signer.host != socket.gethostname():
        return None
    try:
        older = psutil.Process(pid).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, OSError, ValueError):
        return None
    return signer if older else None
