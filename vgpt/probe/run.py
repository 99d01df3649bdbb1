"""Trainings spread over processes of one thread each; what is finished is on record, whatever becomes of the rest."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vgpt.data.progress import Progress
from vgpt.errors import VgptError
from vgpt.launchers import without_launcher
from vgpt.package import PACKAGE
from vgpt.probe.recipe import Trial
from vgpt.threads import usable_cpus

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LEAVE_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """A training that could not be made, and why."""

    trial: Trial
    reason: str


def jobs_for(asked: int | None, trials: int) -> int:
    """Return how many processes train at a time: as asked for, otherwise one per processor, and none without work."""
    return max(1, min(asked or usable_cpus(), trials))


def run_trials(trials: Sequence[Trial], directory: Path, jobs: int, progress: Progress) -> list[Failure]:
    """Train what is missing and return what could not be trained; one that fails does not keep the others from it.

    Args:
        trials: in the order in which they are begun.
        directory: of all trainings.
        jobs: processes at a time.
        progress: hears of optimizer steps.

    Raises:
        VgptError: the directory cannot be written.
        KeyboardInterrupt: after the processes have ended.
    """
    if not trials:
        return []
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Choose another --probe-dir, or mend its permissions."
        raise VgptError(f"--probe-dir {directory} cannot be written: {error.strerror or error}", hint) from error
    pool = _Pool(deque(trials), directory, progress)
    progress.start("probe", sum(trial.recipe.steps for trial in trials), "steps")
    try:
        pool.work(jobs)
    finally:
        pool.stop()
        progress.finish()
    return pool.failures


@dataclass
class _Pool:
    """Processes that take trainings from one queue, each watched by a thread."""

    queue: deque[Trial]
    directory: Path
    progress: Progress
    failures: list[Failure] = field(default_factory=list[Failure])
    processes: list["subprocess.Popen[str]"] = field(default_factory=list["subprocess.Popen[str]"])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, jobs: int) -> None:
        """Start so many processes and wait until nothing is left."""
        threads = [threading.Thread(target=self._one, name=f"probe-{n}", daemon=True) for n in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a wait without end would not hear Ctrl-C everywhere
                thread.join(0.5)

    def stop(self) -> None:
        """End the processes that are left; what they were at is begun again by the next probe."""
        with self.lock:
            self.queue.clear()
            left = list(self.processes)
        for process in left:
            if process.poll() is None:
                process.terminate()
        for process in left:
            try:
                process.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _one(self) -> None:
        """Keep one process at work; another takes its place where it dies."""
        process: subprocess.Popen[str] | None = None
        while (trial := self._next()) is not None:
            if process is None or process.poll() is not None:
                process = self._start()
            reason = self._train(process, trial)
            if reason:
                with self.lock:
                    self.failures.append(Failure(trial, reason))
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()

    def _next(self) -> Trial | None:
        with self.lock:
            return self.queue.popleft() if self.queue else None

    def _start(self) -> "subprocess.Popen[str]":
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PACKAGE.parent)]))
        environment = without_launcher(os.environ) | {"PYTHONPATH": path} | dict.fromkeys(_THREADS, "1")
        # -P: a file named like a library in the working directory is not imported. A group of its own: Ctrl-C is heard
        # here, and told by ending it.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vgpt.probe.worker", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
            text=True,
        )
        with self.lock:
            self.processes.append(process)
        return process

    def _train(self, process: "subprocess.Popen[str]", trial: Trial) -> str:
        """Have a process train; return why it could not, empty where it did."""
        assert process.stdin is not None
        assert process.stdout is not None
        made = 0
        reason = ""
        try:
            process.stdin.write(f"{json.dumps(trial.as_table())}\n")
            process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                if "steps" not in said:
                    reason = said.get("failed", "")
                    break
                made += said["steps"]
                self._advance(said["steps"])
            else:
                reason = f"its process ended with code {process.wait()}"
        except (OSError, ValueError) as error:
            reason = f"its process ended: {error}"
        self._advance(trial.recipe.steps - made)  # what an early end has spared
        return reason

    def _advance(self, steps: int) -> None:
        with self.lock:
            self.progress.advance(steps)
