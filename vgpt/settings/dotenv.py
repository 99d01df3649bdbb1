"""A reader for `.env` files: `NAME=value` lines, without variable expansion and without touching the environment."""

import codecs
import re
import stat
from pathlib import Path

from vgpt.errors import SettingsError

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
# A quoted value may hold line ends, as keys and certificates do; what follows it on its last line is a comment.
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#[^\n]*)?(?:\n|\Z)', re.DOTALL)
_SINGLE_QUOTED = re.compile(r"'([^']*)'[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_LINE = re.compile(r"[^\n]*(?:\n|\Z)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_LARGEST = 1 << 20


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the assignments of a `.env` file; an absent file has none, nor has a folder: a virtual environment, say.

    `export` before a name, single and double quotes (only double quotes know backslash escapes), quoted values over
    several lines, comments and CRLF line ends are understood. The last assignment of a name wins, as in a shell.

    Raises:
        SettingsError: a line is no assignment. Faults name lines, never their text, which may be a secret.
    """
    text = _text(path)
    values: dict[str, str] = {}
    faults: list[str] = []
    place, number = 0, 1
    while place < len(text):
        line = _LINE.match(text, place)
        assert line is not None
        end = line.end()
        if (stripped := line.group().strip()) and not stripped.startswith("#"):
            match = _NAME.match(text, place)
            value, after = _value(text, match.end()) if match else (None, end)
            if match is None or value is None or "\0" in value:
                faults.append(f"{path}, line {number}: not of the form NAME=value")
            else:
                values[match.group(1)], end = value, after
        number += text.count("\n", place, end)
        place = max(end, place + 1)
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


def _text(path: Path) -> str:
    """Return the text of a file, with plain line ends and without a byte-order mark."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISCHR(mode):
            return ""
        if not stat.S_ISREG(mode):
            raise SettingsError([f"{path} is no plain file"], f"Remove it, or put a file there: rm {path}")
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        hint = f"Make it readable: chmod u+r {path}. Or remove it."
        raise SettingsError([f"{path} cannot be read: {error.strerror}"], hint) from None
    if len(content) > _LARGEST:
        raise SettingsError([f"{path} has {len(content):,} bytes: too many for settings"], f"Rename it: mv {path} env")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        reason = f"{path} cannot be read: it is not UTF-8 text"
        raise SettingsError([reason], "Save it as UTF-8, or remove it.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _value(text: str, start: int) -> tuple[str | None, int]:
    """Return the value that begins at `start`, None where its quotes do not close, and where the next line begins."""
    line = _LINE.match(text, start)
    assert line is not None
    if text.startswith('"', start):
        match = _DOUBLE_QUOTED.match(text, start)
        return (_unescaped(match.group(1)), match.end()) if match else (None, line.end())
    if text.startswith("'", start):
        match = _SINGLE_QUOTED.match(text, start)
        return (match.group(1), match.end()) if match else (None, line.end())
    return re.split(r"(?:^|\s+)#", line.group(), maxsplit=1)[0].strip(), line.end()


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match.group(1), match.group(1)), text)
