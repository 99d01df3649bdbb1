"""What a report holds for programs: embedded in its page as inert text, and read back without faith.

A report may come from anybody. It is read as text and JSON alone: nothing of it is run or loaded, and no file that it
names is opened before its digest is known to be asked for.
"""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from vgpt.addresses import masked_text
from vgpt.errors import UsageError, did_you_mean
from vgpt.files.paths import format_name
from vgpt.files.text import parse_json, table_of, to_json
from vgpt.formatting import printable

_OPEN, _CLOSE = '<template id="vgpt-report">', "</template>"
_LARGEST = 256 * 2**20
_LONGEST_TEXT = 2**16
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class ReportedRun:
    """A run as a report tells it; all texts are as they stand there."""

    name: str
    seed: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class ReportedRow:
    """A row of a report.

    Attributes:
        label: the variant with its settings.
        part: title of the comparison that it stands in; empty for a single one.
        runs: its runs, by seed.
        interval: 95% interval of its mean loss over seeds; None where there is none.
    """

    label: str
    part: str
    runs: tuple[ReportedRun, ...]
    interval: tuple[float, float] | None


def embedded(value: Any) -> str:
    """Return plain data as an element of a page that shows and does nothing."""
    return _OPEN + html.escape(to_json(value, indent=None, ascii_only=True), quote=False) + _CLOSE


def read_rows(path: Path) -> list[ReportedRow]:
    """Read the rows of a report: a page that `--html` wrote, or the JSON of `--json`.

    Raises:
        UsageError: it cannot be read, or holds no rows of a comparison.
    """
    shown = printable(format_name(path))
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or error}", "Name a report or its JSON.") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{shown} is larger than any report: more than {_LARGEST // 2**20} MiB", _WHAT)
    try:
        text = content.decode("utf-8-sig")
        if text.lstrip()[:1] not in ("{", "["):
            text = _data_of_page(text)
        return [row for part in _parts(parse_json(text)) for row in part]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{shown} holds no comparison: {_reason(error)}", _WHAT) from error


_WHAT = "vgpt compare ... --html report.html writes a report that can be reproduced; so does --json."


def chosen_row(rows: list[ReportedRow], word: str, part: str | None) -> ReportedRow:
    """Return the row that a word means: its label, or the name of its variant where one row alone has it.

    Raises:
        UsageError: none has it, or several do.
    """
    parts = list(dict.fromkeys(row.part for row in rows))
    if part is not None:
        if part not in parts:
            raise UsageError(f"the report has no part {part!r}", f"Parts: {_listed(parts)}.")
        rows = [row for row in rows if row.part == part]
    exact = [row for row in rows if row.label == word]
    found = exact or [row for row in rows if row.label.partition(":")[0] == word]
    if len({row.part for row in found}) > 1:
        raise UsageError(f"{word!r} stands in several parts of the report", f"Add --part: {_listed(parts)}.")
    if len(found) != 1:
        labels = [row.label for row in rows]
        what = "stands in several rows" if found else f"is no row of the report{did_you_mean(word, labels)}"
        raise UsageError(f"{word!r} {what}", f"Rows: {_listed(labels)}.")
    return found[0]


def _data_of_page(text: str) -> str:
    start = text.find(_OPEN)
    end = text.find(_CLOSE, start)
    if start < 0 or end < 0:
        raise ValueError("it is no page that --html wrote, or one of a version that put no data into it")
    return html.unescape(text[start + len(_OPEN) : end])


def _parts(data: Any) -> list[list[ReportedRow]]:
    table = table_of(data)
    parts = table.get("parts")
    if parts is None:
        parts = [table]
    if not isinstance(parts, list):
        raise TypeError("its parts are no list")
    found: list[list[ReportedRow]] = []
    for part in map(table_of, cast("list[Any]", parts)):
        named = ", ".join(f"{_text(name)} = {_text(value)}" for name, value in table_of(part.get("values")).items())
        title = _text(part.get("title", named))
        found.append([_row(table_of(row), title) for row in cast("list[Any]", part["rows"])])
    if not any(found):
        raise ValueError("it has no rows")
    if sum(len(row.runs) for part in found for row in part) > _MOST_RUNS:
        raise ValueError("it has more runs than any comparison")
    return found


def _row(row: Mapping[str, Any], part: str) -> ReportedRow:
    runs = sorted((_run(table_of(run)) for run in cast("list[Any]", row["runs"])), key=lambda run: run.seed)
    if not runs:
        raise ValueError("a row has no runs")
    bounds = table_of(row.get("statistics")).get("ci95")
    interval = None
    if isinstance(bounds, list) and len(cast("list[Any]", bounds)) == 2:
        low, high = (_number(bound) for bound in cast("list[Any]", bounds))
        interval = (low, high) if math.isfinite(low + high) else None
    return ReportedRow(_text(row["label"]), part, tuple(runs), interval)


def _run(run: Mapping[str, Any]) -> ReportedRun:
    metrics = {_text(name): _number(value) for name, value in table_of(run["metrics"]).items()}
    params, tags = ({_text(n): _text(v) for n, v in table_of(run[kind]).items()} for kind in ("params", "tags"))
    return ReportedRun(_text(run["run_name"]), int(_text(run["seed"])), params, tags, metrics)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _text(value: Any) -> str:
    """Return a text that can be a setting, shown and given to a program.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(value, str | int | float):
        raise TypeError("a text is expected where it has something else")
    text = str(value)
    if len(text) > _LONGEST_TEXT or "\0" in text:
        raise ValueError("a text in it is too long, or not printable")
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return printable(masked_text(str(error)))[:200]


def _listed(words: list[str]) -> str:
    return "; ".join(printable(word)[:80] for word in words[:20])
