"""Directories that appear whole or not at all.

Everything is written under a temporary name, flushed to the disk, listed with size and SHA-256 in `manifest.json`, and
renamed into place; a reader checks the list before it trusts a byte.
"""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vgpt.errors import CheckpointError
from vgpt.files.digests import file_digest
from vgpt.files.writing import flush, replace_json

MANIFEST = "manifest.json"
_OTHERS = "Name another step of the run (ckpt/step-*), or train it on: that starts from its newest whole checkpoint."
VERSION = 1


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file as people read it, whole and flushed; see `vgpt.files.writing.draft_of`."""
    replace_json(path, value, sync=True, indent=2, sort_keys=False, ascii_only=False)


def write_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Create `target` with what `fill` writes, all or nothing; an existing one is replaced.

    Raises:
        OSError: the disk is full or not writable; `target` is as it was before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        fill(temporary)
        files = sorted(path for path in temporary.iterdir() if path.is_file())
        for path in files:
            flush(path)
        listing = {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files}
        write_json(temporary / MANIFEST, {"version": VERSION, "files": listing})
        flush(temporary)
        if target.exists():
            remove_directory(target)
        temporary.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a directory so that no half of it is ever seen under its name."""
    doomed = path.with_name(f".del-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what interrupted writers left behind."""
    for path in [*parent.glob(".tmp-step-*"), *parent.glob(".del-step-*")]:
        shutil.rmtree(path, ignore_errors=True)


def verify(directory: Path) -> None:
    """Check every file of a directory against its manifest.

    Raises:
        CheckpointError: something is missing, of another size, or altered.
    """
    try:
        manifest = json.loads(_plain(directory / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise CheckpointError(
                f"{directory} is of version {manifest['version']}, this vgpt reads version {VERSION}",
                "Use the vgpt that wrote it.",
            )
        files = manifest["files"]
        # A file that nobody vouches for might be read in place of one that is listed.
        if strangers := {path.name for path in directory.iterdir()} - files.keys() - {MANIFEST}:
            raise CheckpointError(f"{directory}: {', '.join(sorted(strangers))} is not in its {MANIFEST}")
        for name, entry in files.items():
            if Path(name).name != name:
                raise CheckpointError(f"{directory}: its {MANIFEST} names a file elsewhere, {name!r}")
            path = _plain(directory / name)
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise CheckpointError(
                    f"{path}: {size:,} bytes instead of {entry['bytes']:,}: it is truncated or foreign", _OTHERS
                )
            if file_digest(path) != entry["sha256"]:
                raise CheckpointError(
                    f"{path}: its content differs from the manifest's SHA-256: it is damaged", _OTHERS
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{directory}: {MANIFEST} cannot be read: {error}", _OTHERS) from error


def _plain(path: Path) -> Path:
    """Return a path if a plain file is there: no link to elsewhere, and no pipe that would be waited for."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing", _OTHERS) from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no plain file")
    return path
