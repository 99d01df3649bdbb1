"""What holds for every file and folder that a person names: one rule for paths, for text, for JSON and TOML.

A byte-order mark is no content, `~` is the home directory, and a name of any bytes can be shown.
"""

import json
import os
import shlex
import tomllib
from pathlib import Path
from typing import Any

BOM = "\ufeff"
DEMO = "demo"
"""The word that stands for the built-in corpus wherever a data set is named; a folder of that name is `./demo`."""

_BEGINNINGS = {
    ".png": (b"\x89png",),
    ".svg": (b"<?xml", b"<svg"),
    ".pdf": (b"%pdf",),
    ".html": (b"<!doctype html", b"<html"),
}
_LONGEST_INTEGER = 4000
_FEWEST_SIGNS = 2


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


def shown_name(path: str | Path) -> str:
    r"""Return a file's name as text that UTF-8 can carry: bytes that are none are spelt out, as in `\xff.txt`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def typed_name(path: str | Path) -> str:
    """Return a file's name quoted for a shell, also where its bytes are no UTF-8."""
    text, shown = str(path), shown_name(path)
    if text == shown:
        return shlex.quote(text)
    return "$'" + shown.replace("'", "\\'") + "'"


def decode_text(content: bytes) -> str:
    """Return UTF-8 text without the byte-order mark that some editors put before it.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    return content.decode("utf-8-sig")


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, with or without a byte-order mark.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is no UTF-8.
    """
    return decode_text(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Read JSON as it is found in the wild: after a byte-order mark, and with integers of any length.

    Raises:
        ValueError, RecursionError: it is no JSON, no UTF-8, or nested too deeply.
    """
    text = decode_text(text) if isinstance(text, bytes) else text.removeprefix(BOM)
    return json.loads(text, parse_int=_integer)


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with or without a byte-order mark.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, is no UTF-8 or no TOML, or nested too deeply.
    """
    return tomllib.loads(read_text(path))


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


def has_byte_order_mark(content: bytes) -> str | None:
    """Return the encoding that a byte-order mark at the beginning names, in iconv's words; None without one."""
    marks = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
    return next((name for mark, name in marks if content.startswith(mark)), None)


def wide_encoding(content: bytes) -> str | None:
    """Return which of UTF-16 and UTF-32 some content is in, by its mark or by where its NUL bytes are; else None."""
    marked = has_byte_order_mark(content)
    if marked or not content:
        return marked
    odd, even = content[1::2].count(0), content[::2].count(0)
    pairs = len(content) // 2
    if pairs < _FEWEST_SIGNS:
        return None
    name = "UTF-16LE" if odd > pairs // 2 and even == 0 else "UTF-16BE" if even > pairs // 2 and odd == 0 else None
    if name is None:
        return None
    # Token files of small vocabularies have zeros in the same places, but no text is full of control characters.
    text = content[: 2 * pairs].decode(name, errors="replace")
    return None if any(letter < " " and letter not in "\t\n\r\f" for letter in text) else name


def _integer(digits: str) -> int | float:
    # Python refuses to turn thousands of digits into an int; nothing that vgpt reads needs them.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)
