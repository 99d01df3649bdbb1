"""Where MLflow is, and how to speak of it: the tracking URI and its credentials, kept apart.

The URI comes from the caller, else from MLFLOW_TRACKING_URI in the environment, else in `./.env`, else it is a SQLite
file in the working directory. Only MLFLOW_* and AWS_* variables of `./.env` are taken; the environment wins over them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from vgpt.addresses import MASK, ambiguous, masked, masked_text, secrets_of
from vgpt.errors import TrackingError
from vgpt.settings.dotenv import permission_note, read_dotenv

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DEFAULT_FILE = "mlflow.db"
_SQLITE = "sqlite:///"
_HTTP = ("http", "https")
_SERVERS = ("postgresql", "mysql", "mssql")
_HOSTED = ("databricks", "databricks-uc", "uc")
_SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|_KEY|CREDENTIAL")
# A path may hold a question mark: what follows the last one is a query where it reads like one, to the end.
_DATABASE = re.compile(r"(.+?)(?:\?(\w+=[^&/?#]*(?:&\w+=[^&/?#]*)*))?", re.DOTALL)
# Retries would turn one lost request into minutes of waiting (the mirror has its own back-off), and a training script
# has no business configuring logging, printing links or reporting usage. Whatever the user has set stays.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}


@dataclass(frozen=True)
class Target:
    """An MLflow store.

    Args:
        uri: its address. HTTP URIs carry no credentials; a database URI may: its driver needs them there. The path in
            `sqlite:///PATH` stands as the file is called: `%` is no escape, and `?` begins a query only where one
            follows (`?timeout=30`).
        shown: the URI for messages and records, without credentials and query.
        environment: variables that MLflow must find set: credentials, time limits, silence.
        secrets: texts that appear in no message or record.
        notes: what the user should hear once, such as a `.env` that others can read.
    """

    uri: str = field(repr=False)
    shown: str
    environment: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def database(self) -> Path | None:
        """The file of a SQLite store, None for every other store."""
        parts = _database(self.uri)
        return Path(parts[0]) if parts else None

    @property
    def query(self) -> str:
        """What the driver of a SQLite store is told, such as `timeout=30`; mostly empty."""
        parts = _database(self.uri)
        return parts[1] if parts else ""

    def redact(self, text: str) -> str:
        """Return a text without credentials: those of this store, and those of any address."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return masked_text(text)


def resolve_target(tracking_uri: str | None = None, *, recorded: str | None = None, must_serve: bool = True) -> Target:
    """Return the store to use.

    Args:
        tracking_uri: what the caller asks for; None for the environment's, `.env`'s or the default.
        recorded: the store that a run's record names, used in place of the default.
        must_serve: whether the store will be used; a wrong URI is no concern of those who only mask its secrets.

    Raises:
        TrackingError: the URI is of no kind that MLflow keeps runs in.
        SettingsError: `.env` is malformed.
    """
    dotenv = Path(".env")
    allowed = {k: v for k, v in read_dotenv(dotenv).items() if k.startswith(("MLFLOW_", "AWS_"))}
    merged = allowed | {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "AWS_"))}
    given = tracking_uri or merged.get(URI_VARIABLE) or recorded or f"{_SQLITE}{_DEFAULT_FILE}"
    uri, moved = _without_credentials(_absolute(given))
    environment = _QUIET | merged | moved
    if must_serve:
        _check_kind(given, environment)
    note = permission_note(dotenv) if allowed else None
    secrets = _secrets(given, environment)
    return Target(uri, _shown(uri), environment | {URI_VARIABLE: uri}, secrets, (note,) if note else ())


def _database(uri: str) -> tuple[str, str] | None:
    """Return path and query of a SQLite URI; None for every other URI."""
    match = _DATABASE.fullmatch(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
    return (match.group(1), match.group(2) or "") if match else None


def _absolute(uri: str) -> str:
    """Make a SQLite path absolute, so that a mirror or a later delivery from elsewhere finds the same file."""
    parts = _database(uri)
    if parts is None or parts[0].startswith((":", "file:")):
        return uri
    return f"{_SQLITE}{Path(parts[0]).absolute()}" + (f"?{parts[1]}" if parts[1] else "")


def _without_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """Move the user part of an HTTP URI to the variables that MLflow reads: MLflow prints the URI, but not those."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri, {}
    if parts.scheme not in _HTTP or "@" not in parts.netloc:
        return uri, {}
    moved = {"MLFLOW_TRACKING_USERNAME": unquote(parts.username or "")}
    if parts.password is not None:
        moved["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), moved


def _check_kind(uri: str, environment: Mapping[str, str]) -> None:
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else uri
    place = f"Set --tracking-uri or {URI_VARIABLE} to {_SQLITE}{_DEFAULT_FILE} or to the http(s)://host:port of an "
    way_out = f"{place}MLflow server, or train with --tracker journal."
    if scheme in (*_HTTP, *_SERVERS) and ambiguous(uri):
        raise TrackingError(
            f"tracking URI {_shown(uri)!r} cannot be read: where its host begins is not clear",
            "In a user name or password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D, "
            "% as %25; or, for a server, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.",
        )
    if not _serves(scheme, uri, environment):
        raise TrackingError(f"tracking URI {_shown(uri)!r} is no store that MLflow can keep runs in", way_out)


def _serves(scheme: str, uri: str, environment: Mapping[str, str]) -> bool:
    if any(letter < " " or (scheme != "sqlite" and "\ud800" <= letter <= "\udfff") for letter in uri):
        return False
    if scheme in _HTTP:
        try:
            parts = urlsplit(uri)
            return bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            return False
    if scheme == "sqlite":
        parts = _database(uri)
        # Neither keeps what another process is to read: a store in memory, and one that only a driver's option names.
        return parts is not None and not parts[0].startswith((":", "file:"))
    if scheme == "file":
        return environment.get("MLFLOW_ALLOW_FILE_STORE", "").lower() == "true"
    return scheme in _HOSTED or (scheme in _SERVERS and "://" in uri)


def _shown(uri: str) -> str:
    parts = _database(uri)
    return _SQLITE + parts[0] if parts else masked(uri)


def _secrets(uri: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts to mask, longest first. Very short ones are left: masking them would garble every message."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)} | secrets_of(uri)
    return tuple(sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True))
