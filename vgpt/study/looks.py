"""How often the metric of a study was looked at: a journal beside its plan, whose lines are chained by their hashes.

Each comparison that showed a finished run of the study adds a line: its number, the time, and the runs that were new
or had another result than before. A line names the hash of the one before it, and a second file names the last line:
one that is changed or removed shows. Whoever writes all of it anew is not found out; MLflow holds number and hash too.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgpt.errors import VgptError
from vgpt.files.digests import json_digest
from vgpt.files.locks import Lock, lock_file
from vgpt.files.text import table_of
from vgpt.files.writing import replace_json
from vgpt.tracking.lines import parse_line, read_json
from vgpt.tracking.run_info import FINISHED, RunInfo
from vgpt.tracking.schema import Metric

_WAIT_SECONDS = 10.0
_MOST_NAMED = 6


@dataclass(frozen=True)
class Seen:
    """What a run was when it was last looked at; `loss` is text, and empty for one that had none."""

    look: int
    label: str
    seed: str
    status: str
    loss: str


@dataclass
class Looks:
    """The journal of looks as it was read.

    Attributes:
        number: how many there were.
        last: hash of the last line.
        time: of the last one, milliseconds since 1970.
        runs: by id, every run that was ever seen.
        faults: what shows that the journal is not whole, one sentence each.
    """

    number: int = 0
    last: str = ""
    time: int = 0
    runs: dict[str, Seen] = field(default_factory=dict[str, Seen])
    faults: list[str] = field(default_factory=list[str])


def looks_path(plan: Path) -> Path:
    """Return the journal of looks that belongs to the file of a plan, which need not be there."""
    return plan.with_suffix(".looks.jsonl")


def read_looks(path: Path) -> Looks:
    """Read a journal of looks; one that is not there holds none, and says so where its last line is on record."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        return Looks(faults=[f"the journal of looks cannot be read: {error.strerror or error}"])
    found = Looks()
    for number, line in enumerate(content.splitlines(), start=1):
        entry = parse_line(line)
        if entry is None or not _take(found, entry):
            found.faults.append(f"line {number} of the journal of looks was changed")
    head = read_json(_head(path)) or {}
    if content and not head:
        found.faults.append("the record of the last look is gone")
    elif head.get("hash", found.last) != found.last:
        found.faults.append(f"the last of {head.get('number')} looks is not in their journal: lines were removed")
    return found


def add_look(path: Path, runs: Iterable[tuple[RunInfo, str]], now: int) -> Looks:
    """Add a look to the journal and return it with this one; nothing is added where no run has a result.

    Args:
        path: the journal.
        runs: those of the study on record, each with the name of its variant.
        now: the time, milliseconds since 1970.

    Raises:
        VgptError: it cannot be written: nobody would know of the look.
    """
    shown = {run.id or run.run_id: _seen(run, label) for run, label in runs if run.status in (FINISHED, "diverged")}
    if not any(table["status"] == FINISHED for table in shown.values()):
        return read_looks(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "ab") as file:
            if lock_file(file.fileno(), timeout=_WAIT_SECONDS) is Lock.BUSY:
                raise OSError(0, "another process holds it")
            found = read_looks(path)
            new = {name: table for name, table in shown.items() if _differs(found.runs.get(name), table)}
            entry = {"number": found.number + 1, "time": now, "runs": new, "before": found.last}
            entry["hash"] = json_digest(entry)
            if found.time > now:
                found.faults.append(f"the clock was set back between looks {found.number} and {found.number + 1}")
            file.write((json.dumps(entry, separators=(",", ":")) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            replace_json(_head(path), {"number": entry["number"], "hash": entry["hash"]}, sync=True)
            _take(found, entry)
    except OSError as error:
        raise VgptError(
            f"the look at the study cannot be recorded in {path}: {error.strerror or error}",
            "Nothing is shown that nobody would know of: mend the folder's permissions.",
        ) from error
    return found


def came_and_went(before: Looks, runs: Iterable[RunInfo]) -> list[str]:
    """Say which runs that were seen at an earlier look are gone, or have another result now."""
    now = {run.id or run.run_id: run for run in runs}
    said: list[str] = []
    for name, seen in before.runs.items():
        who = f"{seen.label}, seed {seen.seed}"
        told = f"{seen.loss if seen.status == FINISHED and seen.loss else seen.status} at look {seen.look}"
        if name not in now:
            said.append(f"{who}: a run that had {told} is gone")
        elif _loss(now[name]) != seen.loss or now[name].status != seen.status:
            is_now = _loss(now[name]) if now[name].status == FINISHED else now[name].status
            said.append(f"{who}: {told}, {is_now} now")
    more = len(said) - _MOST_NAMED
    return [*said[:_MOST_NAMED], f"and {more} more"] if more > 0 else said


def _take(found: Looks, entry: Mapping[str, Any]) -> bool:
    """Take one line into account and tell whether it is the next one, as it was written."""
    try:
        number, time, runs = int(entry["number"]), int(entry["time"]), table_of(entry["runs"])
        seen = {str(name): Seen(number, *_fields(table_of(table))) for name, table in runs.items()}
        before, own = str(entry["before"]), str(entry["hash"])
    except (KeyError, TypeError, ValueError):
        return False
    content = {name: value for name, value in entry.items() if name != "hash"}
    good = json_digest(content) == own and before == found.last and number == found.number + 1
    if time < found.time:
        found.faults.append(f"the clock was set back between looks {found.number} and {number}")
    found.number, found.last, found.time = max(number, found.number), own, max(time, found.time)
    found.runs |= seen
    return good


def _fields(table: Mapping[str, Any]) -> tuple[str, str, str, str]:
    label, seed, status, loss = (str(table[name]) for name in ("label", "seed", "status", "loss"))
    return label, seed, status, loss


def _seen(run: RunInfo, label: str) -> dict[str, str]:
    return {"label": label, "seed": run.seed, "status": run.status, "loss": _loss(run)}


def _differs(seen: Seen | None, table: Mapping[str, str]) -> bool:
    return seen is None or (seen.status, seen.loss) != (table["status"], table["loss"])


def _loss(run: RunInfo) -> str:
    loss = run.metrics.get(Metric.VAL_LOSS, math.nan)
    return f"val loss {loss:.6f}" if math.isfinite(loss) else ""


def _head(path: Path) -> Path:
    return path.with_suffix(".head")
