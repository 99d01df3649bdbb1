"""Loss per evaluation window and per position of a finished run, kept so that runs can be compared by them later."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgpt.files.writing import replace_json

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
