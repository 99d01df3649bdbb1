"""Settings by keyword: the same names, sources and checks as flags have, from the same table."""

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

from vgpt.attention.plugins import load_plugin as load_whole
from vgpt.attention.plugins import load_plugins, named
from vgpt.errors import SettingsError, VgptError, did_you_mean
from vgpt.settings.commands import unknown_variables
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import format_value, leaves
from vgpt.settings.loader import Loaded, Sources, load_settings
from vgpt.settings.presets import load_preset

S = TypeVar("S", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")
_ORIGIN, _HERE = "(command line)", "(argument)"


def sources_of(model: type[BaseModel], given: Mapping[str, Any], *, preset: str | Path | None = None) -> Sources:
    """Return where settings come from: keywords before the environment, before `./.env`, before the preset.

    Args:
        model: the settings that are to be loaded from it.
        given: settings by their flat name, `n_layer` for the flag `--n-layer`; lists for flags that take commas.
        preset: name of a packaged one, or path of a TOML file.

    Raises:
        SettingsError: a name that no setting has.
        UsageError: no such preset.
    """
    known_plugins()
    known = leaves(model)
    if unknown := [name for name in given if name not in known]:
        faults = [f"{name}: unknown setting{did_you_mean(name, known)}" for name in unknown]
        raise SettingsError(faults, "Settings are called as the flags of the command are, with _ for -.")
    values = {name: _word(value) for name, value in given.items()}
    found = Sources.here(load_preset(str(preset)).part_for(model) if preset is not None else None, values)
    for note in unknown_variables(found):
        warn(note)
    return found


def settings_of(model: type[S], given: Mapping[str, Any], *, preset: str | Path | None = None) -> Loaded[S]:
    """Build settings from keywords and all other sources; arguments and errors as for `sources_of`.

    Raises:
        SettingsError: with every fault: unknown names, wrong values, settings of another variant.
    """
    sources = sources_of(model, given, preset=preset)
    try:
        loaded = load_settings(model, sources)
    except SettingsError as error:
        raise as_argument(error) from error
    for note in loaded.notes:
        warn(note)
    return loaded


def as_argument(error: SettingsError) -> SettingsError:
    """Return an error about settings that says "argument" where a command would say "command line"."""
    return SettingsError([fault.replace(_ORIGIN, _HERE) for fault in error.faults], error.hint)


def load_plugin(place: str | Path) -> list[str]:
    """Load a file or module with attention variants, as `--plugin` does, and return their names.

    Processes that are started from here, as `compare(run_missing=True)` starts them, load it too.

    Args:
        place: a file that ends in .py, or the name of a module.

    Raises:
        UsageError: it cannot be imported, or its variants do not go together with the others.
    """
    known_plugins()
    load_plugins([str(place)], warn, _check)
    return load_whole(named(str(place)), _check)


@cache
def known_plugins() -> None:
    """Load what `VGPT_PLUGINS` and installed packages name, once: as every command does."""
    load_plugins([], warn, _check)


def _check() -> None:
    """Make sure that all variants' settings go together."""
    leaves(CompareConfig)


def _word(value: Any) -> Any:
    """Return a value as a flag has it: a switch, or the word that a person would type."""
    if isinstance(value, bool):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else format_value(value)


def warn(note: str) -> None:
    """Tell a user one remark in the way of Python: a warning, which can be filtered and is shown once."""
    warnings.warn(note, stacklevel=4)


def for_users(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise what a disk or a path refuses as an error with a way out, as the commands do."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            hint = "Check the path, its permissions and the disk."
            raise VgptError(f"{where}{error.strerror or error}", hint) from error

    return guarded
