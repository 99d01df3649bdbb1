"""Which data a command means that names none: what was prepared last in this directory, otherwise the demo.

`vgpt prepare` leaves a small file in the working directory that names the folder it wrote. Without that file, the
newest data set below `data/` counts, as of an earlier version. A run that is continued by its name, or forked, keeps
the data that it was trained on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgpt.files.paths import DEMO, near_place
from vgpt.files.text import parse_json, table_of
from vgpt.files.writing import replace_bytes

POINTER = Path(".vgpt-data")
MANIFEST = "manifest.json"
PREPARED = "prepared last in this directory"
_FORMAT = "vgpt-data-pointer"
_USUAL_PARENT = Path("data")


@dataclass(frozen=True)
class Found:
    """A data set that nobody named, and where it was found."""

    place: str
    origin: str


def remember_prepared(out: Path) -> None:
    """Note in the working directory that the data set at `out` is the one prepared last here.

    Raises:
        OSError: it cannot be written, or a file of another program has its name.
    """
    if POINTER.exists() and _pointed() is None:
        raise FileExistsError(f"{POINTER} is no file of vgpt's")
    replace_bytes(POINTER, (json.dumps({"format": _FORMAT, "data": near_place(out)}) + "\n").encode())


def find_prepared() -> Found | None:
    """Return the data set prepared last in the working directory; None where nothing was."""
    place = _pointed()
    if place is not None:
        there = (Path(place) / MANIFEST).is_file()
        return Found(place, PREPARED if there else f"{PREPARED}, but gone")
    manifests = sorted(_USUAL_PARENT.glob(f"*/{MANIFEST}"), key=_changed, reverse=True)
    newest = next((path.parent for path in manifests if _of_a_person(path)), None)
    return Found(near_place(newest), PREPARED) if newest is not None else None


def data_of_run(place: str, runs_dir: Path) -> Found | None:
    """Return the data that a run was begun with; None where there is no such run.

    Args:
        place: name of the run, its directory or one of its checkpoints.
        runs_dir: where names are looked up.
    """
    path = Path(place)
    near = [runs_dir / place, path, *list(path.absolute().parents)[:2]]
    for directory in near:
        train = table_of(table_of(_read(directory / "settings.json")).get("train"))
        if isinstance(data := train.get("data"), str):
            return Found(data, f"the run {directory.name}")
    return None


def _pointed() -> str | None:
    table = table_of(_read(POINTER))
    if table.get("format") == _FORMAT and isinstance(place := table.get("data"), str):
        return place
    return None


def _of_a_person(manifest: Path) -> bool:
    """Tell whether a manifest is of text that was prepared, not of the demo that `train` prepares by itself."""
    source = table_of(_read(manifest)).get("source")
    return isinstance(source, dict) and table_of(source).get("inputs") != [DEMO]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
