"""The runs of a directory at a glance: what each is doing, how far it came, and what it takes on disk.

Nothing here believes a file: a directory may be half-written, foreign or damaged, and costs at most its own row. Of a
journal only the end is read, so that a thousand long runs answer in seconds.
"""

import math
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgpt.attention.grammar import attention_label
from vgpt.errors import VgptError
from vgpt.files.text import table_of
from vgpt.settings.train import TrainConfig
from vgpt.tracking.journal import METRICS_FILE
from vgpt.tracking.lines import parse_line, read_json
from vgpt.tracking.lock import RUN_LOCK_FILE, lock_owner
from vgpt.tracking.record import RECORD_FILE, SUMMARY_FILE
from vgpt.tracking.schema import Metric

STATES: dict[str, str] = {
    "running": "a process trains it now",
    "finished": "it came to its end",
    "stopped": "a signal asked it to save and stop; the same command continues it",
    "killed": "its process is gone without a word; the same command continues it",
    "diverged": "its loss or gradient was no longer a number",
    "failed": "an error ended it",
    "empty": "it never came to train",
    "unreadable": "its files cannot be read, mostly for want of permission",
}
_ENDED = {"finished": "finished", "killed": "stopped", "diverged": "diverged", "failed": "failed", "running": "killed"}
_SETTINGS = "settings.json"
_STEP = re.compile(r"step-(\d{8,})")
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Listed:
    """One run as `vgpt runs` shows it.

    Attributes:
        name: of its directory, by which every command finds it.
        attention: variant with its settings; empty where unknown.
        state: one of STATES.
        step: last step on record.
        steps: steps of its budget; None where its settings cannot be read.
        loss: last training loss, nats per token.
        best_loss: lowest validation loss, nats per token.
        bytes: size of all its files.
        started: seconds since 1970.
    """

    name: str
    attention: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    best_loss: float | None
    bytes: int
    started: float

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return max(0.0, time.time() - self.started)


def list_runs(runs_dir: Path) -> list[Listed]:
    """Return the runs in a directory, newest first; directories that hold no run are passed over.

    Raises:
        VgptError: there is no such directory.
    """
    try:
        with os.scandir(runs_dir) as entries:
            places = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_dir(entry)]
    except FileNotFoundError as error:
        raise VgptError(f"no directory of runs at {runs_dir}", "Name it with --runs-dir, or train one.") from error
    found = [run for place in places if (run := _listed(place)) is not None]
    return sorted(found, key=lambda run: (-run.started, run.name))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _listed(directory: Path) -> Listed | None:
    """Return the run in a directory; one that cannot be read costs its own row and no other."""
    try:
        return list_run(directory)
    except OSError:
        return Listed(directory.name, "", "unreadable", 0, None, None, None, 0, _changed(directory))


def list_run(directory: Path) -> Listed | None:
    """Return the run in a directory, or None where there is none."""
    known = {name for name in (_SETTINGS, RECORD_FILE, RUN_LOCK_FILE) if (directory / name).is_file()}
    saved = _saved_steps(directory / "ckpt")
    if not known and not saved:
        return None
    record = _read(directory / RECORD_FILE) if RECORD_FILE in known else {}
    settings = _read(directory / _SETTINGS) if _SETTINGS in known else {}
    state = _read(saved[-1] / "state.json") if saved else {}
    points = list(_last_points(directory / METRICS_FILE))
    summary = table_of(_read(directory / SUMMARY_FILE).get("metrics"))
    step = max([int(saved[-1].name.removeprefix("step-"))] if saved else [0])
    step = max(step, *(int(_number(point.get("step")) or 0) for point in points), 0)
    losses = [value for point in points if (value := _metric(point, Metric.TRAIN_LOSS)) is not None]
    best = [_number(summary.get(Metric.VAL_BEST_LOSS)), _number(state.get("best_loss"))]
    best += [_metric(point, Metric.VAL_LOSS) for point in points]
    started = _number(record.get("started"))
    return Listed(
        name=directory.name,
        attention=_attention(settings),
        state=_state(directory, str(record.get("status", "")), begun=bool(step or points)),
        step=step,
        steps=_steps(settings),
        loss=losses[-1] if losses else None,
        best_loss=min((value for value in best if value is not None), default=None),
        bytes=_size(directory),
        started=started / 1000 if started else _changed(directory),
    )


def _state(directory: Path, status: str, *, begun: bool) -> str:
    lock = directory / RUN_LOCK_FILE
    if lock.is_file() and lock_owner(directory) is not None:
        return "running"
    return _ENDED.get(status, "killed" if begun else "empty")


def _saved_steps(directory: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(directory) if _STEP.fullmatch(name)]
    except OSError:
        return []
    return [directory / name for name in sorted(names, key=lambda name: int(name.removeprefix("step-")))]


def _last_points(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects on the last lines of a journal, oldest first."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return
    # Where the reading began is seldom where a line begins.
    for line in lines[1:] if size > _TAIL_BYTES else lines:
        entry = parse_line(line)
        if entry is not None:
            yield entry


def _metric(point: dict[str, Any], name: str) -> float | None:
    return _number(table_of(point.get("metrics")).get(name))


def _attention(settings: dict[str, Any]) -> str:
    own = dict(table_of(table_of(settings.get("model")).get("attn")))
    kind = own.pop("kind", "")
    try:
        return attention_label(kind, own) if isinstance(kind, str) and kind else ""
    except (VgptError, KeyError, TypeError, ValueError):
        return str(kind)


def _steps(settings: dict[str, Any]) -> int | None:
    try:
        return TrainConfig.model_validate(settings).steps if settings else None
    except (VgptError, ValueError):
        # Of another version, or of a variant that is not installed here.
        value = _number(table_of(settings.get("train")).get("max_steps"))
        return None if value is None else int(value)


def _size(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # rotated away, or written anew, at this moment
    return total


def _changed(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    return (read_json(path) if path.is_file() else None) or {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
