"""Training the runs that a comparison lacks: one `vgpt train` after another, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FrameType

from vgpt.compare.request import PlannedRun
from vgpt.errors import UsageError
from vgpt.launchers import without_launcher
from vgpt.study.estimate import ThroughputEstimate, tokens_left, told
from vgpt.tracking.lock import lock_owner

INTERRUPTED, TRY_AGAIN = 130, 75
"""Exit codes of a run that was stopped: by Ctrl-C; by SIGTERM, as batch systems send it."""

_STDERR = 2
_LOOK_SECONDS = 0.5
_FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}


@dataclass(frozen=True)
class Failure:
    """A run that could not be trained, and the exit code of its command."""

    planned: PlannedRun
    code: int


class TrainingInterrupted(Exception):  # noqa: N818 - no error: the user's wish, or the machine's
    """Training was stopped from outside; `code` is the exit code that says so."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped ({code})")
        self.code = code


def train_missing(
    missing: Sequence[PlannedRun],
    notify: Callable[[str], None],
    *,
    throughput: ThroughputEstimate | None = None,
    program: Sequence[str] = (sys.executable, "-m", "vgpt"),
) -> list[Failure]:
    """Train each run; one that fails does not keep the others from being trained.

    A run that another process trains at this moment - one that outlived a comparison that was killed, say - is waited
    for, and then continued if it needs to be.

    Args:
        missing: what to train.
        notify: takes one line for people.
        throughput: what is known of their speed; learns from each run, so that the time left is told after it.
        program: what runs `vgpt`.

    Returns:
        The runs that failed.

    Raises:
        TrainingInterrupted: by Ctrl-C or SIGTERM, after the process in training has saved and ended.
    """
    failures: list[Failure] = []
    throughput = throughput or ThroughputEstimate([])
    missing = _with_backend(missing, notify)
    for number, planned in enumerate(missing, start=1):
        notify(f"run {number} of {len(missing)}: {planned.command}")
        _wait_for_owner(planned, notify)
        tokens, begun = tokens_left(planned), time.monotonic()
        code = _call([*program, *planned.arguments])
        if code in (INTERRUPTED, TRY_AGAIN):
            raise TrainingInterrupted(code)
        if code:
            failures.append(Failure(planned, code))
            notify(f"failed with exit code {code}: {planned.command}")
        else:
            throughput.note(planned, time.monotonic() - begun, tokens)
        if rest := missing[number:]:
            notify(f"{number} of {len(missing)} done; time left: {told(map(throughput.seconds, rest))}")
    return failures


def _with_backend(missing: Sequence[PlannedRun], notify: Callable[[str], None]) -> list[PlannedRun]:
    """Settle once, where that takes a measurement, which backend computes the attention of all runs."""
    from vgpt.training.hardware.attention_backend import FLAG, choose, is_measured
    from vgpt.training.hardware.devices import resolve

    found: list[PlannedRun] = []
    settled: dict[tuple[object, ...], str] = {}
    for planned in missing:
        model, system, words = planned.config.model, planned.config.system, planned.arguments
        try:
            compute = resolve(system)
        except UsageError:  # which the run itself will say
            return list(missing)
        if is_measured(system, compute):
            key = (model.n_head, model.n_embd, model.block_size, model.flash, *system.model_dump().values())
            if key not in settled:
                settled[key] = choose(model, system, compute, notify)
            if FLAG in words:
                at = words.index(FLAG)
                words = (*words[:at], *words[at + 2 :])
            planned = replace(planned, arguments=(*words, FLAG, settled[key]))
        found.append(planned)
    return found


def _wait_for_owner(planned: PlannedRun, notify: Callable[[str], None]) -> None:
    directory = planned.config.directory
    if lock_owner(directory) is None:
        return
    notify(f"another process trains {directory} now: waiting for it")
    while lock_owner(directory) is not None:
        time.sleep(_LOOK_SECONDS)


def _call(command: Sequence[str]) -> int:
    """Run a command on this terminal, with its results on stderr: stdout belongs to the tables.

    The process has a group of its own, so that it hears of each Ctrl-C once, from here, wherever that came from; it
    saves and is waited for. It trains alone, also where this process is one of a launcher's: it would wait for others.
    """
    asked: list[int] = []
    process = subprocess.Popen(command, stdout=_STDERR, process_group=0, env=without_launcher(os.environ))

    def forward(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        process.send_signal(_FORWARDED[signal.Signals(number)])

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.terminate()
            process.wait()
    if asked:
        raise TrainingInterrupted(INTERRUPTED if asked[0] == signal.SIGINT else TRY_AGAIN)
    return code
