"""The file of a SQLite store: its address, whether it can be used, and one process at a time."""

import contextlib
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote

from vgpt.files.locks import Lock, lock_file
from vgpt.tracking.mlflow_store.reasons import StoreError, reason_of
from vgpt.tracking.mlflow_store.target import Target

_INIT_TIMEOUT = 60.0


def check_database(target: Target, path: Path, *, write: bool) -> None:
    """Fail at once where MLflow would retry for minutes: a directory or file that cannot be read or written."""
    try:
        if not write and not path.exists():
            raise StoreError(f"{path} does not exist")
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rwc" if write else "rw" if os.access(path, os.W_OK) else "ro"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=3.0)) as database:
            database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            if write:  # a lock can be had on a file that cannot be written; a table cannot
                database.execute("CREATE TABLE vgpt_probe (number)")
            database.execute("PRAGMA schema_version").fetchone()
            database.rollback()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise StoreError(target.redact(f"{path}: {reason}")) from None


def spelled(target: Target) -> str:
    """Return the URI that makes MLflow open the store."""
    if target.database is None:
        return target.uri
    address = address_of(target.database)
    return address + (("&" if "?" in address else "?") + target.query if target.query else "")


def address_of(path: Path) -> str:
    """Return the address of a SQLite file for the SQLAlchemy that is installed: some undo percent signs, some do not.

    Raises:
        StoreError: it has none.
    """
    from sqlalchemy.engine import make_url

    # SQLite's own addresses, the last two, know percent signs in every version.
    encoded = quote(os.fsencode(path))
    own = f"file:{encoded}"
    wanted = {str(path): str(path), encoded: str(path)}
    wanted |= {f"{own}?uri=true": own, f"{quote(own, safe='/:')}?uri=true": own}
    for spelling, meaning in wanted.items():
        # MLflow makes the folder that a plain address spells; with the driver's name it leaves that to its caller.
        address = f"sqlite:///{spelling}" if spelling == str(path) else f"sqlite+pysqlite:///{spelling}"
        if make_url(address).database == meaning:
            return address
    raise StoreError(f"MLflow has no address for {path}")


def is_empty(path: Path) -> bool:
    """Return whether a store is yet to be made there."""
    return not path.exists() or path.stat().st_size == 0


@contextlib.contextmanager
def exclusively(database: Path | None) -> Generator[None]:
    """Hold a lock on the directory of a SQLite store (no lock file is left behind); nothing for other stores."""
    if database is None:
        yield
        return
    fd = os.open(database.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if lock_file(fd, timeout=_INIT_TIMEOUT, pause=0.05) is Lock.BUSY:
            raise StoreError(f"{database.parent} is locked by another process")
        yield
    finally:
        os.close(fd)
