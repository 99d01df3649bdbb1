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

from vgpt.errors import TrackingError
from vgpt.settings.dotenv import permission_note, read_dotenv

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DEFAULT_FILE = "mlflow.db"
_HTTP = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_HOSTED = ("databricks", "databricks-uc", "uc")
_SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|_KEY|CREDENTIAL")
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]*@")
_MASK = "***"
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
        uri: what MLflow is given. HTTP URIs carry no credentials; a database URI may: its driver needs them there.
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
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:") else None

    def redact(self, text: str) -> str:
        """Return a text without credentials: those of this store, and the user part of any URI."""
        for secret in self.secrets:
            text = text.replace(secret, _MASK)
        return _USERINFO.sub(rf"\1{_MASK}@", text)


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
    uri = tracking_uri or merged.get(URI_VARIABLE) or recorded or f"sqlite:///{_DEFAULT_FILE}"
    uri, moved = _without_credentials(_absolute(uri))
    environment = _QUIET | merged | moved
    if must_serve:
        _check_kind(uri, environment)
    note = permission_note(dotenv) if allowed else None
    return Target(
        uri, _shown(uri), environment | {URI_VARIABLE: uri}, _secrets(uri, environment), (note,) if note else ()
    )


def redact_uris(text: str) -> str:
    """Return a text with the user part of every URI masked."""
    return _USERINFO.sub(rf"\1{_MASK}@", text)


def _absolute(uri: str) -> str:
    """Make a SQLite path absolute, so that a mirror or a later delivery from elsewhere finds the same file."""
    prefix = "sqlite:///"
    return prefix + str(Path(uri.removeprefix(prefix)).absolute()) if uri.startswith(prefix) else uri


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
    if scheme in _HTTP and urlsplit(uri).hostname:
        return
    if scheme == "sqlite" and len(uri) > len("sqlite:///"):
        return
    if scheme in _HOSTED or (scheme in _DATABASES and scheme != "sqlite"):
        return
    if scheme == "file" and environment.get("MLFLOW_ALLOW_FILE_STORE", "").lower() == "true":
        return
    raise TrackingError(
        f"tracking URI {_shown(uri)!r} is no store that MLflow can keep runs in",
        f"Set --tracking-uri or {URI_VARIABLE} to sqlite:///{_DEFAULT_FILE} or to the http(s)://host:port of an MLflow "
        "server, or train with --tracker journal.",
    )


def _shown(uri: str) -> str:
    return redact_uris(uri.partition("?")[0])


def _secrets(uri: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts to mask, longest first. Very short ones are left: masking them would garble every message."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    try:
        password = urlsplit(uri).password
    except ValueError:
        password = None
    if password:
        found |= {password, unquote(password)}
    return tuple(sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True))
