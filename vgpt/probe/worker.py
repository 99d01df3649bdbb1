"""One of a probe's processes: `python -m vgpt.probe.worker DIRECTORY`, which trains what it is told, on one thread.

Each line of its standard input is a training. On its standard output it says `{"steps": n}` as it goes, and at the end
of each `{"done": digest}`, or `{"failed": reason}`. Tiny models gain nothing from a second thread, and every training
gives the same numbers whatever runs beside it. It ends with its input; what it has finished by then is on record, also
where the process that started it is gone.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vgpt.attention.plugins import load_plugins
from vgpt.errors import VgptError
from vgpt.probe.recipe import Trial
from vgpt.probe.records import LOCK_FILE, read_outcome, write_outcome
from vgpt.probe.train import train_trial
from vgpt.tracking.journal import Journal
from vgpt.tracking.lock import FileLock

_LOOK_SECONDS = 0.5


def main(directory: Path) -> None:
    """Train until the input ends."""
    # What a plug-in prints is not for the process that listens.
    channel = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        """Tell the process that started this one; where it is gone, the training still ends and is on record."""
        with contextlib.suppress(OSError):
            os.write(channel, f"{json.dumps(message)}\n".encode())

    torch.set_num_threads(1)
    load_plugins([], lambda _: None, lambda: None)
    for line in sys.stdin:
        trial = Trial.of_table(json.loads(line))
        try:
            settle(directory, trial, lambda steps: say({"steps": steps}))
        except KeyboardInterrupt:
            return
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the others are to be trained
            reason = error.message if isinstance(error, VgptError) else f"{type(error).__name__}: {error}"
            say({"failed": " ".join(reason.split())})
        else:
            say({"done": trial.digest})


def settle(directory: Path, trial: Trial, advance: Callable[[int], None] = lambda _: None) -> None:
    """Train what is not on record; where another process trains it at this moment, wait for that.

    Args:
        directory: of all trainings.
        trial: what to train.
        advance: takes steps that were made.

    Raises:
        OSError: its folder cannot be written.
    """
    folder = directory / trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    while not lock.acquire():
        time.sleep(_LOOK_SECONDS)
    try:
        if read_outcome(directory, trial) is None:
            journal = Journal(folder, resume_step=None)
            try:
                outcome = train_trial(trial, journal.log, advance)
            finally:
                error = journal.close()
            if error is not None:
                raise error
            write_outcome(directory, trial, outcome)
    finally:
        lock.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
