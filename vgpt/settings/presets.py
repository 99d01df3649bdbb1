"""Presets: TOML files of settings, packaged with vgpt or the user's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from vgpt.errors import UsageError, did_you_mean
from vgpt.files.paths import user_path
from vgpt.files.text import parse_toml, table_of
from vgpt.package import PACKAGE
from vgpt.settings.train import TrainConfig

_MAX_DEPTH = 20


@dataclass(frozen=True)
class Preset:
    """A preset's name, as shown in messages, and its tables."""

    name: str
    tables: dict[str, Any]

    def part_for(self, model: type[BaseModel]) -> "Preset":
        """Return it without the sections of a run that `model` does not have; unknown ones stay, to be refused."""
        others = TrainConfig.model_fields.keys() - model.model_fields.keys()
        return Preset(self.name, {name: table for name, table in self.tables.items() if name not in others})


def preset_directory() -> Path:
    """Return where the packaged presets lie: inside the installed package, or beside it in a source tree."""
    inside = PACKAGE / "presets"
    return inside if inside.is_dir() else PACKAGE.parent / "presets"


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    return sorted(path.stem for path in preset_directory().glob("*.toml"))


def load_preset(name: str) -> Preset:
    """Read a preset by packaged name or by path.

    Raises:
        UsageError: no such preset, or no TOML in it.
    """
    path = _named(name)
    if path.suffix != ".toml":
        path = preset_directory() / f"{name}.toml"
    if not path.is_file():
        known = preset_names()
        raise UsageError(
            f"--preset {name}: no such preset{did_you_mean(name, known)}",
            f"Packaged presets: {', '.join(known)}. A preset of your own is named by its path, ending in .toml.",
        )
    try:
        tables = parse_toml(path)
        if _deeper(tables, _MAX_DEPTH):
            raise RecursionError
        return Preset(name, tables)
    except RecursionError as error:
        raise UsageError(f"--preset {name}: nested too deeply", f"Mend {path}.") from error
    except ValueError as error:
        raise UsageError(f"--preset {name}: not valid TOML: {error}", f"Mend {path}.") from error
    except OSError as error:
        raise UsageError(f"--preset {name}: cannot be read: {error.strerror}") from error


def _named(name: str) -> Path:
    try:
        return user_path(name)
    except ValueError as error:
        raise UsageError(f"--preset {name}: {error}") from error


def _deeper(value: Any, depth: int) -> bool:
    """Tell whether tables and lists are nested deeper than `depth`."""
    if not isinstance(value, dict | list):
        return False
    inner = list(table_of(value).values()) if isinstance(value, dict) else cast("list[Any]", value)
    return depth == 0 or any(_deeper(part, depth - 1) for part in inner)
