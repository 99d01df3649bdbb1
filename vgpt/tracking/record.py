"""What a run directory says of its run: `tracking.json` (identity, params, tags, state), `summary.json` (its end)."""

import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vgpt.files.writing import replace_json
from vgpt.tracking.lines import read_json

RECORD_FILE = "tracking.json"
SUMMARY_FILE = "summary.json"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before its first step.

    Args:
        run_name: name of the run.
        run_dir: its directory; it exists.
        experiment: MLflow experiment, and the group under which comparisons look.
        params: flattened settings as text, each under its flag's word.
        tags: tags of `vgpt.tracking.schema`; those that name the run itself are filled in.
    """

    run_name: str
    run_dir: Path
    experiment: str
    params: dict[str, str]
    tags: dict[str, str]


@dataclass
class RunRecord:
    """The content of tracking.json: all that a mirror, now or later, needs beside the journal.

    `id` names the run in every store; `store` is the MLflow store chosen at the start, without credentials, or empty
    for a run of the journal alone. Times are milliseconds since 1970; `ended` is 0 while the run goes on. `artifacts`
    holds (path, folder) pairs.
    """

    id: str
    run_name: str
    experiment: str
    params: dict[str, str]
    tags: dict[str, str]
    started: int
    store: str = ""
    status: str = "running"
    ended: int = 0
    artifacts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def save(self, run_dir: Path) -> None:
        """Replace the run directory's tracking.json."""
        replace_json(run_dir / RECORD_FILE, asdict(self))

    def add_artifact(self, path: Path, folder: str) -> None:
        """List a file once, as an absolute path."""
        pair = (str(path.resolve()), folder)
        if pair not in self.artifacts:
            self.artifacts.append(pair)


def read_record(run_dir: Path) -> RunRecord | None:
    """Return the record of a run directory, or None where there is none or it is damaged."""
    content = read_json(run_dir / RECORD_FILE)
    try:
        record = RunRecord(**content) if content is not None else None
        if record is None or not _sound(record):
            return None
        record.artifacts = [(str(path), str(folder)) for path, folder in record.artifacts]
    except (TypeError, ValueError):
        return None
    return record


def _sound(record: RunRecord) -> bool:
    """Tell whether every field is of its kind, whatever wrote the file."""
    found: dict[str, Any] = vars(record)
    texts = [found[name] for name in ("id", "run_name", "experiment", "store", "status")]
    tables = [found[name] for name in ("params", "tags")]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(table, dict) for table in tables)
        and all(isinstance(value, str) for table in tables for value in table.values())
        and all(isinstance(time, int) for time in (found["started"], found["ended"]))
        and isinstance(found["artifacts"], list)
    )


def new_id() -> str:
    """Return an identity for a new run."""
    return uuid.uuid4().hex


def save_summary(run_dir: Path, record: RunRecord, metrics: dict[str, float]) -> Path:
    """Write summary.json, the end of a run for people and scripts, and return its path.

    Values that JSON does not know (NaN, infinity) become text.
    """
    shown: dict[str, Any] = {key: value if abs(value) < float("inf") else str(value) for key, value in metrics.items()}
    path = run_dir / SUMMARY_FILE
    replace_json(path, {"run_name": record.run_name, "status": record.status, "metrics": shown}, sync=True)
    return path
