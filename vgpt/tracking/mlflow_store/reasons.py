"""What failures of MLflow, and of the libraries below it, mean in plain words, and what can be done."""

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# What MLflow answers to a request that no repetition will make right.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

_FAMILIAR = {
    "Connection refused": "connection refused",
    "timed out": "no answer in time",
    "NameResolutionError": "unknown host",
    "Connection reset": "the connection broke",
    "Connection aborted": "the connection broke",
    "error code 401": "the server wants other credentials (401)",
    "error code 403": "the server refuses access (403)",
    "database is locked": "the database is locked by another process",
    "readonly database": "the database is read-only",
    "unable to open database file": "the database cannot be opened, or its folder cannot be written",
    "database or disk is full": "the disk is full",
    "database disk image is malformed": "the database is damaged",
    "file is not a database": "the file is not a database",
}
_FOUND_REVISION = re.compile(r"found version (\w+)|revision identified by '(\w+)'")
OLDER = "its database was made by an older MLflow"
NEWER = "its database was made by a newer MLflow"


class StoreError(Exception):
    """A call to MLflow failed. `refused`: the request itself is at fault, so that repeating it is useless."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def reason_of(error: Exception) -> str:
    """Say in a few words what an exception of MLflow, or of what lies below it, means."""
    text = str(error).strip()
    if revision := _FOUND_REVISION.search(text):
        return _schema_reason(revision.group(1) or revision.group(2))
    for sign, meaning in _FAMILIAR.items():
        if sign in text:
            return meaning
    # What SQLAlchemy tells first may be how it came to the call; the line that names the driver's error is the cause.
    lines = [line for line in text.splitlines() if line and not line.startswith("(raised as a result")]
    return (f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)[:300]


def _schema_reason(revision: str) -> str:
    """Say whether a database is older or newer than the MLflow that is installed, which lists the past revisions."""
    package = find_spec("mlflow")
    folder = Path(package.origin).parent if package is not None and package.origin else Path()
    listed = folder.glob("store/db_migrations/versions/*.py")
    known = any(f'revision = "{revision}"' in path.read_text(encoding="utf-8") for path in listed)
    return f"{OLDER if known else NEWER} than the {version('mlflow')} that is installed"
