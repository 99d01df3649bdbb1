"""Starts the processes of a run through torch's elastic launcher, in this process, and tells how they ended.

torch's own restarts are not used: they reuse a rendezvous that still holds the keys of the dead. A retry is a fresh
launch, which continues from the last good checkpoint like any run that is started again.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch

from vgpt.errors import UsageError, VgptError
from vgpt.settings.train import TrainConfig
from vgpt.threads import thread_count
from vgpt.tracking.lock import lock_owner
from vgpt.training.checkpoints.files import write_json
from vgpt.training.hardware.devices import refuse_too_many_processes
from vgpt.training.parallel.distributed import WATCHDOG, interface_to
from vgpt.training.records.same_run import refuse_foreign

# Retrying these would fail again, or is not wanted: usage, divergence, data, checkpoint.
_FINAL = frozenset({2, 3, 4, 5})
_PAUSE = 1.0
# How long processes may take to save after a signal.
_SHUTDOWN_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """How a launch ended: the exit code, and where it failed, the process, the cause and its log."""

    code: int
    rank: int = 0
    cause: str = ""
    log: Path | None = None


class WorkerFailedError(VgptError):
    """A process of the run ended with an error; the others were ended with it."""

    def __init__(self, outcome: Outcome, size: int) -> None:
        where = f"Its log: {outcome.log}" if outcome.log else ""
        super().__init__(f"process {outcome.rank} of {size} failed: {outcome.cause}", where)
        self.exit_code = outcome.code


def launch(config: TrainConfig, notify: Callable[[str], None]) -> int:
    """Run the processes of this machine to their end; start them afresh up to `--retries` times.

    Returns:
        0, or 75 or 130 where a signal asked the run to save and stop.

    Raises:
        WorkerFailedError: a process failed, and no retry is left or would help.
        UsageError: another process trains under this name, or there are fewer GPUs than processes.
    """
    refuse_too_many_processes(config.system, config.workers.nproc)
    directory = config.directory
    refuse_foreign(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # The other machines of a run find its lock held by the first one, rightly.
    if config.workers.node_rank == 0 and (owner := lock_owner(directory)) is not None:
        raise UsageError(f"the run {config.name} is in use by {owner}", "Wait for it, or choose another --run-name.")
    machine = f"-node-{config.workers.node_rank}" if config.workers.nnodes > 1 else ""
    settings = directory / f"launch{machine}.json"
    # Credentials in the address of the store reach the processes by their environment, never by a file.
    bare = config.run.model_copy(update={"tracking_uri": None})
    write_json(settings, config.model_copy(update={"run": bare}).model_dump(mode="json"))
    for attempt in range(config.workers.retries + 1):
        outcome = _once(config, settings, directory / "logs" / f"attempt-{attempt}{machine}")
        if outcome.code in (0, 75, 130):
            return outcome.code
        if outcome.code in _FINAL or attempt == config.workers.retries:
            raise WorkerFailedError(outcome, config.workers.world_size)
        notify(f"process {outcome.rank} failed ({outcome.cause}); starting afresh, retry {attempt + 1}")
        time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _once(config: TrainConfig, settings: Path, logs: Path) -> Outcome:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _quieten("torch.distributed.elastic")
    workers = config.workers
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("error-*.json"):
        old.unlink()
    # The main process talks to this terminal; what the others print is for their logs.
    quiet = {rank: Std.ALL for rank in range(workers.nproc) if workers.node_rank > 0 or rank > 0}
    newer: dict[str, Any] = {}
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:  # torch 2.10 has a fixed time there
        newer["shutdown_timeout"] = _SHUTDOWN_SECONDS
    plan = LaunchConfig(
        min_nodes=workers.nnodes,
        max_nodes=workers.nnodes,
        nproc_per_node=workers.nproc,
        run_id=config.name,
        rdzv_backend="static" if workers.nnodes > 1 else "c10d",
        rdzv_endpoint=workers.rdzv_endpoint or "localhost:0",
        rdzv_configs={"rank": workers.node_rank, "timeout": 900} if workers.nnodes > 1 else {},
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=quiet),
        signals_to_handle="SIGTERM,SIGINT,SIGHUP",
        **newer,
    )
    inherited = {"OMP_NUM_THREADS": threads_of_each(config)}
    if workers.nnodes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
        # Else gloo takes the address that this machine's name resolves to, often one that no other machine reaches.
        inherited |= {"GLOO_SOCKET_IFNAME": name} if (name := interface_to(workers.rdzv_endpoint or "")) else {}
    if config.run.tracking_uri is not None:
        inherited["MLFLOW_TRACKING_URI"] = config.run.tracking_uri
    with _Environment(**inherited), _Forwarded(signal.SIGUSR1):
        try:
            elastic_launch(plan, sys.executable)("-u", "-m", "vgpt.cli.worker", str(settings), str(logs))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return _outcome(logs, rank, failure.exitcode, workers.node_rank * workers.nproc)
        except SignalException as error:
            return Outcome(130 if error.sigval == signal.SIGINT else 75)
    return Outcome(0)


def threads_of_each(config: TrainConfig) -> str:
    """Return the threads of one process; where nothing is said, torch's launcher would leave one to each."""
    together = os.environ | {"LOCAL_WORLD_SIZE": str(config.workers.nproc)}
    count = thread_count(torch.get_num_threads(), config.system.threads, environment=together)
    return str(count or os.environ.get("OMP_NUM_THREADS") or os.environ["MKL_NUM_THREADS"])


def _quieten(package: str) -> None:
    """Silence a package's loggers, each of which has a level of its own: `WorkerFailedError` says it in one panel."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(package):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _outcome(logs: Path, rank: int, code: int, first_rank: int) -> Outcome:
    """Find the cause: what the first process to fail has written down, or the signal that ended it."""
    if code in (75, 130):
        return Outcome(code)
    told = sorted(logs.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in told]
    log = next(iter(sorted(logs.glob(f"**/{rank - first_rank}/stderr.log"))), None)
    if code == -signal.SIGABRT and log is not None and WATCHDOG in log.read_text(encoding="utf-8", errors="replace"):
        return Outcome(70, rank, "the other processes no longer answered: NCCL's watchdog ended this one", log)
    if code < 0:
        return Outcome(70, rank, f"ended by {signal.Signals(-code).name}", log)
    # A process whose neighbor died reports a broken connection; a cause of its own comes first.
    own = [report for report in reports if not report["connection"]] or reports
    if own:
        return Outcome(own[0]["code"], own[0]["rank"], own[0]["cause"], log)
    return Outcome(code, rank, f"exit code {code}", log)


class _Environment:
    """Sets environment variables, which the processes inherit, and puts back what was there."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Forwarded:
    """Passes a signal that torch's launcher does not know on to its processes."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __enter__(self) -> None:
        self._before: Any = signal.signal(self._number, self._pass_on)

    def __exit__(self, *_: object) -> None:
        signal.signal(self._number, self._before)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            if "vgpt.cli.worker" in child.cmdline():
                child.send_signal(number)
