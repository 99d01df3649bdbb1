"""A reader for `.env` files: `NAME=value` lines, without variable expansion and without touching the environment."""

import re
import stat
from pathlib import Path

from vgpt.errors import SettingsError

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_SINGLE_QUOTED = re.compile(r"'([^']*)'\s*(?:#.*)?")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the assignments of a `.env` file; an absent file has none.

    `export` before a name, single and double quotes (only double quotes know backslash escapes), comments and CRLF line
    ends are understood. The last assignment of a name wins, as in a shell.

    Raises:
        SettingsError: a line is no assignment. Faults name lines, never their text, which may be a secret.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError([f"{path} cannot be read: {reason}"], "Mend or remove the file.") from None
    values: dict[str, str] = {}
    faults: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(stripped)
        value = _value(match.group(2)) if match else None
        if match is None or value is None:
            faults.append(f"{path}, line {number}: not of the form NAME=value")
        else:
            values[match.group(1)] = value
    if faults:
        raise SettingsError(faults, 'Write NAME=value, or NAME="value with spaces"; comments start with #.')
    return values


def permission_note(path: Path) -> str | None:
    """Return a warning if other users of the machine can read the file, otherwise None."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return f"{path} can be read by other users of this machine; `chmod 600 {path}` keeps its credentials private"
    return None


def _value(text: str) -> str | None:
    """Return the value that follows the equals sign, or None where its quotes do not close."""
    if text.startswith('"'):
        match = _DOUBLE_QUOTED.fullmatch(text)
        return None if match is None else _ESCAPE.sub(lambda m: _ESCAPES.get(m.group(1), m.group(1)), match.group(1))
    if text.startswith("'"):
        match = _SINGLE_QUOTED.fullmatch(text)
        return None if match is None else match.group(1)
    return re.split(r"(?:^|\s+)#", text, maxsplit=1)[0].rstrip()
