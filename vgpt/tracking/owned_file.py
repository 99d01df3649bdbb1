"""Files that are added to finished runs: each says which run it is of, and under which seal.

The sealed record stays as it is. What was found before a run was trained further is no longer its record.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgpt.files.digests import json_digest
from vgpt.files.writing import replace_bytes
from vgpt.tracking.record import RunRecord
from vgpt.tracking.schema import Tag


@dataclass(frozen=True)
class Owner:
    """The run that a file is of: its identity, and the seal it carried; empty before it finished."""

    id: str
    seal: str


class DamagedError(ValueError):
    """A file that is none of its kind, or was changed since it was written."""


def owner_of(record: RunRecord) -> Owner:
    """Return the run that a run directory's record is of."""
    return Owner(record.id, record.tags.get(Tag.SEAL, ""))


def write_owned(path: Path, owner: Owner, key: str, tables: Sequence[dict[str, Any]]) -> Path:
    """Write tables as a file of a run and return it.

    Args:
        path: the file.
        owner: the run.
        key: what the tables are called there.
        tables: plain data.

    Raises:
        OSError: it cannot be written.
    """
    content: dict[str, Any] = {"of": asdict(owner), key: list(tables)}
    # Hashed as it will be read: what JSON makes of a number is that number.
    content["digest"] = json_digest(json.loads(json.dumps(content)))
    replace_bytes(path, json.dumps(content, separators=(",", ":")).encode() + b"\n", sync=True)
    return path


@contextmanager
def damaged_if_malformed() -> Generator[None]:
    """Take whatever goes wrong while a table is read for a damaged file.

    Raises:
        DamagedError: it went wrong.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def read_owned(content: bytes, owner: Owner, key: str) -> list[dict[str, Any]]:
    """Return the tables of a file; nothing where it is of another run, or of an earlier state of this one.

    Raises:
        DamagedError: it is no such file, or was changed.
    """
    with damaged_if_malformed():
        table = json.loads(content)
        if table.pop("digest") != json_digest(table):
            raise DamagedError("its digest is another")
        return list(table[key]) if table["of"] == asdict(owner) else []
