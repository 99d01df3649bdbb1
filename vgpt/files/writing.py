"""Files that are replaced whole: a reader, or a crash, finds the old content or the new one, and nothing between.

The new content is written beside the file under a draft's name and renamed into its place. What must outlive a loss of
power is flushed to the disk before it is renamed.
"""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def draft_of(path: Path, *, sync: bool = False) -> Generator[Path]:
    """Give a name beside `path` to write under, and rename what was written there into place.

    Where the block fails, the draft is removed and `path` is as it was.

    Args:
        path: the file to replace.
        sync: whether the draft is flushed to the disk before it is renamed.

    Raises:
        OSError: it cannot be written or renamed.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        if sync:
            flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Replace a file; see `draft_of`."""
    with draft_of(path, sync=sync) as draft:
        draft.write_bytes(content)


def replace_json(
    path: Path, value: Any, *, sync: bool = False, indent: int = 1, sort_keys: bool = True, ascii_only: bool = True
) -> None:
    """Replace a JSON file; see `draft_of`.

    Raises:
        OSError: it cannot be written.
        ValueError, TypeError: the value is none of JSON's; the file is as it was.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ascii_only)
    replace_bytes(path, f"{text}\n".encode(), sync=sync)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk; Windows opens no folders.

    Raises:
        OSError: it cannot be opened, or the disk fails.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
