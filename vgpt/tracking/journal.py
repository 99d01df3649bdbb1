"""The local journal of a run: `metrics.jsonl` and `events.jsonl`, written before anything else hears of a number.

A line of metrics.jsonl is `{"step", "time" (ms since 1970), "metrics", "tokens"?, "seconds"?, "nonfinite"?,
"summary"?}`. JSON has no NaN or infinity: such a value is null under `metrics`, and `nonfinite` holds it as "nan",
"inf" or "-inf". `summary` is true on the line that sums up a run at its end.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vgpt.files.writing import replace_bytes
from vgpt.tracking.lines import LineFile, LineReader, parse_line

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Point:
    """The metrics of one step. `time` is in milliseconds since 1970; `seconds` is training time."""

    step: int
    time: int
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    tokens: int | None = None
    seconds: float | None = None
    summary: bool = False


class Journal:
    """Writes a run's journal.

    Args:
        run_dir: the run's directory; it exists.
        resume_step: the step of the checkpoint that the run continues from: later points are dropped, because the
            run repeats them. None starts an empty journal.
    """

    def __init__(self, run_dir: Path, *, resume_step: int | None) -> None:
        self._last: tuple[int, frozenset[str]] = (-1, frozenset())
        if resume_step is None:
            (run_dir / METRICS_FILE).unlink(missing_ok=True)
        else:
            _truncate(run_dir / METRICS_FILE, resume_step)
            for point in read_metrics(run_dir):
                self._note(point)
        _drop_torn_line(run_dir / EVENTS_FILE)
        self._metrics = LineFile(run_dir / METRICS_FILE)
        self._events = LineFile(run_dir / EVENTS_FILE)

    def log(self, point: Point) -> OSError | None:
        """Append one point; return the disk's error, if any, with the point held in memory until there is room.

        A summary says nothing anew of metrics that its step has already: MLflow would keep the first value.
        """
        if point.summary:
            step, known = self._last
            metrics = {key: v for key, v in point.metrics.items() if step != point.step or key not in known}
            point = replace(point, metrics=metrics)
        self._note(point)
        return self._metrics.write(_entry(point))

    def _note(self, point: Point) -> None:
        known = self._last[1] if point.step == self._last[0] else frozenset[str]()
        self._last = point.step, known | point.metrics.keys()

    def event(self, kind: str, fields: Mapping[str, Any]) -> OSError | None:
        """Append one event with the time; values that JSON does not know become text."""
        known = json.loads(json.dumps({**fields, "kind": kind, "time": now_ms()}, default=str), parse_constant=str)
        return self._events.write(known)

    def close(self) -> OSError | None:
        """Write and sync everything."""
        errors = [self._metrics.close(), self._events.close()]
        return next((error for error in errors if error is not None), None)


class JournalReader:
    """Reads a growing metrics.jsonl: each call of `new` returns the points completed since the last."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = LineReader(run_dir / METRICS_FILE)

    def new(self) -> list[Point]:
        """Return the new points, oldest first; torn and damaged lines are passed over."""
        points = (_point(entry) for entry in self._lines.new())
        return [point for point in points if point is not None]


def read_metrics(run_dir: Path) -> list[Point]:
    """Return all points of a run's journal, oldest first; an absent journal has none."""
    return JournalReader(run_dir).new()


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return all events of a run's journal, oldest first."""
    return list(LineReader(run_dir / EVENTS_FILE).new())


def latest_metrics(points: list[Point]) -> dict[str, float]:
    """Return the last value of every metric."""
    latest: dict[str, float] = {}
    for point in points:
        latest.update(point.metrics)
    return latest


def now_ms() -> int:
    """Return the time in milliseconds since 1970, the unit of MLflow."""
    return time.time_ns() // 1_000_000


def _entry(point: Point) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": point.step, "time": point.time}
    if point.tokens is not None:
        entry["tokens"] = point.tokens
    if point.seconds is not None:
        entry["seconds"] = point.seconds
    entry["metrics"] = {key: value if math.isfinite(value) else None for key, value in point.metrics.items()}
    nonfinite = {key: str(value) for key, value in point.metrics.items() if not math.isfinite(value)}
    if nonfinite:
        entry["nonfinite"] = nonfinite
    if point.summary:
        entry["summary"] = True
    return entry


def _point(entry: dict[str, Any]) -> Point | None:
    """Return the point of a journal line, or None where the line is valid JSON of another shape."""
    try:
        metrics = {str(key): math.nan if value is None else float(value) for key, value in entry["metrics"].items()}
        metrics.update({key: float(value) for key, value in entry.get("nonfinite", {}).items()})
        step, time, summary = int(entry["step"]), int(entry["time"]), entry.get("summary") is True
        return Point(step, time, metrics, entry.get("tokens"), entry.get("seconds"), summary)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _truncate(path: Path, step: int) -> None:
    """Drop the points after `step`, the summary of a run that goes on after all, and whatever a crash left torn."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept: list[bytes] = []
    for line in content.splitlines(keepends=True):
        entry = parse_line(line) if line.endswith(b"\n") else None
        point = None if entry is None else _point(entry)
        if point is not None and point.step <= step and not point.summary:
            kept.append(line)
    remaining = b"".join(kept)
    if remaining != content:
        replace_bytes(path, remaining, sync=True)


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            replace_bytes(path, whole, sync=True)
