"""Text, JSON and TOML in files: a byte-order mark is no content, and JSON is written as its standard has it.

What JSON cannot say (NaN, infinity) is null, and paths and other objects are text.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

BOM = "\ufeff"
_LONGEST_INTEGER = 4000
_FEWEST_SIGNS = 2


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


def to_json(value: Any, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """Return the one JSON text of a value for people's programs."""
    return json.dumps(_known(value), indent=indent, ensure_ascii=ascii_only, default=str, allow_nan=False)


def table_of(value: Any) -> dict[str, Any]:
    """Return a JSON object as a table; an empty one where a foreign or damaged file has something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in cast("list[Any]", value)]
    return value
