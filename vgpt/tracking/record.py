"""What a run directory says of its run: identity and state, how it ended, and the losses of its last evaluation.

`tracking.json` has identity, params, tags and state, `summary.json` the end, and `val_windows.json` the loss per
evaluation window and per position, kept so that runs can be compared by them later.
"""

import json
import uuid
from collections.abc import Iterable
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


WINDOWS_FILE = "val_windows.json"


@dataclass(frozen=True)
class WindowLosses:
    """The final evaluation of a run.

    Attributes:
        step: optimizer steps before it.
        windows: number, length and hash of the windows, as in the tag `vgpt.eval_windows`: only runs with the same text
            here were evaluated on the same tokens.
        losses: mean nats per token of each window, in order, to 7 significant digits.
        positions: mean nats of the tokens with 1, 2, ... tokens of context, likewise; empty where they were not kept.
        documents: number of the document in which each window begins, in order; windows of one document are no
            independent draws. Empty where that was not recorded.
    """

    step: int
    windows: str
    losses: tuple[float, ...]
    positions: tuple[float, ...] = ()
    documents: tuple[int, ...] = ()

    def save(self, run_dir: Path) -> Path:
        """Write the run directory's val_windows.json and return its path.

        Raises:
            OSError: it cannot be written.
        """
        path = run_dir / WINDOWS_FILE
        table: dict[str, Any] = {"step": self.step, "windows": self.windows, "losses": _rounded(self.losses)}
        if self.positions:
            table["positions"] = _rounded(self.positions)
        if self.documents:
            table["documents"] = list(self.documents)
        replace_json(path, table, sync=True)
        return path


def _rounded(losses: Iterable[float]) -> list[float]:
    return [float(f"{loss:.7g}") for loss in losses]


def parse_window_losses(text: str | bytes) -> WindowLosses | None:
    """Read the content of a val_windows.json; None where it is not one, or where a loss is no finite number."""
    try:
        table = json.loads(text)
        losses, positions = (tuple(map(float, table.get(name, []))) for name in ("losses", "positions"))
        documents = tuple(map(int, table.get("documents", [])))
        found = WindowLosses(int(table["step"]), str(table["windows"]), losses, positions, documents)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    kept = all(abs(loss) < float("inf") for loss in (*found.losses, *found.positions))
    whole = len(found.documents) in (0, len(found.losses))
    return found if found.losses and kept and whole else None
