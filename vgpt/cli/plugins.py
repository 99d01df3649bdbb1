"""The option `--plugin`: read before the command line is built, since what it loads brings flags of its own."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vgpt.attention.plugins import VARIABLE, load_plugins
from vgpt.cli.console import warn
from vgpt.errors import SettingsError, UsageError
from vgpt.settings.dotenv import read_dotenv

FLAG = "--plugin"
_OF_EVERY_COMMAND = ("--help", "-h", FLAG)


def split_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part `--plugin NAME` and `--plugin=NAME` from the other words of a command line, wherever they stand before `--`.

    Raises:
        UsageError: nothing follows `--plugin`.
    """
    plugins: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            return plugins, [*others, word, *rest]
        if name != FLAG:
            others.append(word)
        elif value := value if equals else next(rest, ""):
            plugins.append(value)
        else:
            raise UsageError(f"{FLAG} needs a value: a file or the name of a module")
    return plugins, others


def load_before_building(words: Sequence[str], check: Any) -> UsageError | None:
    """Load every plug-in; return the fault of one that was asked for, to be shown when the command line is parsed.

    Args:
        words: the command line.
        check: raises where the flags of all variants do not go together.
    """
    completing = _words_to_complete()
    try:
        plugins, _ = split_plugins(words if completing is None else completing)
        load_plugins(plugins, warn if completing is None else _silent, check)
    except UsageError as error:
        return error
    if completing is None and VARIABLE in _dotenv():
        warn(f"{VARIABLE} in .env is left out: what a folder holds does not run by itself; export it, or use {FLAG}")
    return None


def check_flags(command: Any, name: str = "vgpt") -> None:
    """Make sure that each flag of a command and its subcommands means one thing.

    Raises:
        TypeError: two options share a spelling.
    """
    taken = set(_OF_EVERY_COMMAND) if name != "vgpt" else set[str]()
    for parameter in command.params:
        spellings = {word for word in [*parameter.opts, *parameter.secondary_opts] if word.startswith("-")}
        if twice := spellings & taken:
            raise TypeError(f"{min(twice)} would mean two things in `{name}`")
        taken |= spellings
    for word, subcommand in getattr(command, "commands", {}).items():
        check_flags(subcommand, f"{name} {word}")


def _words_to_complete() -> list[str] | None:
    """Return the finished words of the line that a shell asks to complete; None where no shell asks."""
    if "_VGPT_COMPLETE" not in os.environ:
        return None
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return words if line.endswith(" ") else words[:-1]


def _silent(_message: str) -> None:
    """Say nothing: the shell would print it into the line that is typed."""


def _dotenv() -> dict[str, str]:
    try:
        return read_dotenv(Path(".env"))
    except SettingsError:  # said by the commands that need it
        return {}
