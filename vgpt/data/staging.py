"""A folder that appears whole or not at all: written beside its place, flushed, then renamed into it.

What vgpt did not write is neither replaced nor swept away, whatever it is called: a folder is a data set of its own
only where the manifest says so.
"""

import errno
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vgpt.data.manifest import MANIFEST_NAME, Manifest, is_manifest
from vgpt.errors import DataError
from vgpt.files.locks import Lock, lock_file
from vgpt.files.writing import flush

_LOCK = ".lock"
SPOOL_NAME = "spool.tmp"
_PARTS = frozenset({MANIFEST_NAME, "train.bin", "val.bin", "tokenizer.json", "tokenizer.model", "tokenizer.vocab"})
_STAGED = _PARTS | {_LOCK, SPOOL_NAME}
_ENDING = re.compile(r"[a-z0-9_]{8}")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give a fresh folder beside `target`; it is removed at the end, whatever happens, unless `publish` moved it.

    Leftovers of killed runs are swept first: a live run holds a lock on its folder, a dead one cannot.

    Raises:
        DataError: the disk is full or the place cannot be written; anywhere inside the block, too.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(target.parent):
            _sweep(target)
            folder = Path(tempfile.mkdtemp(prefix=_prefix(target, "tmp"), dir=target.parent))
            held = (folder / _LOCK).open("wb")
            lock_file(held.fileno(), timeout=None)
    except OSError as error:
        raise _disk_error(error, target) from error
    try:
        yield folder
    except OSError as error:
        raise _disk_error(error, target) from error
    finally:
        held.close()
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path, *, overwrite: bool) -> None:
    """Flush a staged folder to the disk and rename it to `target`.

    Without `overwrite`, an equal data set that another process put there meanwhile stays.

    Raises:
        DataError: another process put a different data set there meanwhile.
    """
    (folder / _LOCK).unlink()
    # mkdtemp made the folder private to its owner; a data set is as readable as any new folder.
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    # The manifest vouches for the others, so it goes to the disk after them.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
        flush(path)
    flush(folder)
    with _alone_in(target.parent):
        _swap(folder, target, overwrite)
        flush(target.parent)


def _swap(folder: Path, target: Path, overwrite: bool) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(folder, target)
        return
    if not overwrite:
        present = target / MANIFEST_NAME
        if present.is_file() and present.read_bytes() == (folder / MANIFEST_NAME).read_bytes():
            return
        raise DataError(f"another process prepared {target} meanwhile", "Look at it, or replace it with --overwrite.")
    retired = target.parent / f"{_prefix(target, 'old')}{secrets.token_hex(4)}"
    os.rename(target, retired)
    os.rename(folder, target)
    shutil.rmtree(retired, ignore_errors=True)


def real_target(target: Path) -> Path:
    """Return where a data set at `target` really goes: through links, which stay.

    Raises:
        DataError: it is the working directory, which would be renamed away under everyone who stands in it.
    """
    real = Path(os.path.realpath(target))
    if real == Path(os.path.realpath(os.curdir)):
        raise DataError(
            f"--out {target} is the folder you stand in", "Name a folder below it, as in --out data/corpus."
        )
    return real


def check_replaceable(target: Path) -> None:
    """Refuse to replace anything but a data set of vgpt's: it has the manifest that names it, and nothing else.

    Raises:
        DataError: `target` is a file, or holds files that are no part of a data set.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target} is a file", "Name another folder with --out.")
    names = {path.name for path in target.iterdir()}
    if not names:
        return
    known = set(_PARTS) if is_manifest(target / MANIFEST_NAME) else set[str]()
    if known:
        with suppress(DataError):
            known |= set(Manifest.load(target).files)
    if foreign := sorted(names - known):
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise DataError(
            f"{target} holds files that are no part of a data set of vgpt's: {shown}",
            "They are not replaced. Name another folder with --out.",
        )


def _prefix(target: Path, kind: str) -> str:
    return f".{target.name}.{kind}-"


@contextmanager
def _alone_in(parent: Path) -> Iterator[None]:
    """Hold a lock on a folder for a moment: no other process sweeps or renames in it."""
    if os.name == "nt":  # a folder cannot be opened there
        yield
        return
    handle = os.open(parent, os.O_RDONLY)
    try:
        lock_file(handle, timeout=None)
        yield
    finally:
        os.close(handle)


def _siblings(target: Path, kind: str) -> list[Path]:
    """Return the folders beside `target` that are called like staged ones and hold nothing but what vgpt writes."""
    prefix = _prefix(target, kind)
    named = [path for path in target.parent.iterdir() if path.name.startswith(prefix)]
    return sorted(path for path in named if _ENDING.fullmatch(path.name.removeprefix(prefix)) and _is_ours(path))


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        return all(path.name in _STAGED and path.is_file() for path in folder.iterdir())
    except OSError:
        return False


def _sweep(target: Path) -> None:
    for folder in _siblings(target, "old"):
        # A run was killed between its two renames: what it had moved away goes back.
        if not target.exists() and is_manifest(folder / MANIFEST_NAME):
            os.rename(folder, target)
        elif is_manifest(folder / MANIFEST_NAME):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in _siblings(target, "tmp"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("rb") as held:
            # Where there are no locks, nobody can tell, and what may be alive stays.
            return lock_file(held.fileno()) is Lock.HELD
    except FileNotFoundError:
        # A live run is without a lock only while it publishes.
        return folder.stat().st_mtime < time.time() - 3600
    except OSError:
        return False


def _disk_error(error: OSError, target: Path) -> DataError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "Free some space, or name a folder on a larger disk with --out. Nothing was left behind."
        return DataError(f"no room to write {target}: {reason}", hint)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return DataError(f"cannot write {target}: {reason}", "Name a folder you may write to with --out.")
    return DataError(f"cannot prepare {target}: {error}", "See the message; nothing was left behind.")
