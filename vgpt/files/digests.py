"""SHA-256 of files and of plain data, as hexadecimal digits: what records and manifests vouch with."""

import hashlib
import json
from pathlib import Path
from typing import Any


def size_and_digest(path: Path) -> tuple[int, str]:
    """Return how many bytes a file holds and the digest over them, read once and in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def file_digest(path: Path) -> str:
    """Return the digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    return size_and_digest(path)[1]


def digest_if_there(path: Path) -> str:
    """Return the digest of a file's content; empty where it cannot be read."""
    try:
        return file_digest(path)
    except OSError:
        return ""


def bytes_digest(content: bytes) -> str:
    """Return the digest of bytes at hand."""
    return hashlib.sha256(content).hexdigest()


def json_digest(value: Any) -> str:
    """Return the digest of plain data by its JSON, whose keys are sorted: equal tables have equal digests."""
    return bytes_digest(json.dumps(value, sort_keys=True).encode())
