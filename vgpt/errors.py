"""The errors a user can cause or meet: each says what is wrong and what to do next.

`VgptError` and its kinds are for people: the command line prints them as one panel, without a traceback, and exits
with `exit_code`; a process of a launched run exits with `worker_code`. A programming error stays an ordinary Python
exception.
"""

import difflib
from collections.abc import Iterable


class VgptError(Exception):
    """A failure with a way out.

    Args:
        message: what is wrong, with the value that caused it.
        hint: what to do next; one sentence or one command. Empty where the message already says it.
    """

    exit_code = 1
    worker_code: int | None = None
    """The same where a launcher started this process, which may tell by it that trying again is no use."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(VgptError):
    """Wrong flags, settings or arguments: nothing was started."""

    exit_code = 2


class SettingsError(UsageError):
    """One or more settings are wrong; every fault is listed, so that all can be mended at once."""

    def __init__(self, faults: list[str], hint: str = "") -> None:
        self.faults = faults
        message = faults[0] if len(faults) == 1 else "\n".join(f"• {fault}" for fault in faults)
        super().__init__(message, hint)


class DataError(VgptError):
    """A corpus, shard or manifest is missing, damaged or does not fit."""

    worker_code = 4


class TokenizerError(VgptError):
    """A tokenizer cannot be trained, read or used for this text."""


class CheckpointError(VgptError):
    """A checkpoint is missing, damaged or belongs to other settings."""

    worker_code = 5


class TrackingError(VgptError):
    """A tracking store cannot be read. Writing to one never raises: training goes on without it."""


class DivergedError(VgptError):
    """Training produced non-finite numbers and stopped."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
