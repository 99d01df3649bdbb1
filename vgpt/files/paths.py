"""What holds for every file and folder that a person names: one rule for paths, and for what may be replaced.

`~` is the home directory, and a name of any bytes can be shown.
"""

import os
import shlex
from pathlib import Path

DEMO = "demo"
"""The word that stands for the built-in corpus wherever a data set is named; a folder of that name is `./demo`."""

RUNS_DIR = Path("runs")
"""Directory of all runs, unless `--runs-dir` names another."""

_BEGINNINGS = {
    ".png": (b"\x89png",),
    ".svg": (b"<?xml", b"<svg"),
    ".pdf": (b"%pdf",),
    ".html": (b"<!doctype html", b"<html"),
}


def user_path(word: str | Path) -> Path:
    """Return the path that a person means: `~` and `~name` are home directories, as in a shell.

    Raises:
        ValueError: `~name` is nobody's, so that a folder of that name would be made.
    """
    text = str(word)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and os.sep in expanded and not os.path.exists(expanded.split(os.sep)[0]):
        raise ValueError(f"nobody here is called {expanded.split(os.sep)[0][1:]!r}; a folder of this name is ./{text}")
    return Path(expanded)


def plain_place(text: str) -> str:
    """Return one spelling for `d`, `d/` and `./d`: the same on every machine and in every directory."""
    if text == DEMO:
        return text
    place = os.path.normpath(text)
    return os.path.join(os.curdir, place) if place == DEMO else place


def near_place(path: Path) -> str:
    """Return a path as it is typed in this directory: relative where it lies below."""
    place, here = os.path.abspath(path), os.getcwd()
    return plain_place(os.path.relpath(place, here) if place.startswith(os.path.join(here, "")) else place)


def format_name(path: str | Path) -> str:
    r"""Return a file's name as text that UTF-8 can carry: bytes that are none are spelled out, as in `\xff.txt`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def typed_name(path: str | Path) -> str:
    """Return a file's name quoted for a shell, also where its bytes are no UTF-8."""
    text, shown = str(path), format_name(path)
    if text == shown:
        return shlex.quote(text)
    return "$'" + shown.replace("'", "\\'") + "'"


def run_argument(directory: Path) -> str:
    """Return the word by which a command finds a run: its name in `RUNS_DIR`, else its directory."""
    place = Path(near_place(directory))
    return typed_name(place.name if place.parent == RUNS_DIR else place)


def access_hint(error: OSError, otherwise: str) -> str:
    """Return what to do about a file that cannot be read; what is not permitted is no damage."""
    if isinstance(error, PermissionError):
        return "Ask for the right to read it, or give it to yourself: chmod u+r FILE."
    return otherwise


def may_replace(path: Path, kind: str) -> bool:
    """Tell whether a picture or a page may be written to `path`: nothing is there, or another of the same kind.

    Args:
        path: where it goes.
        kind: its ending, as in `.png`; kinds without a known beginning may replace anything.
    """
    marks = _BEGINNINGS.get(kind.lower())
    if marks is None:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(32).lstrip().lower()
    except OSError:
        return not path.exists()
    return not head or head.startswith(marks)
