"""Study files: which variants are compared, over which seeds, budgets, rates and positions, in one TOML file.

name = "demo-study"                     # tag vgpt.group of its runs
variants = ["mha", "gqa", "mqa"]        # the baseline first
preset = "demo"
seeds = 3
match = ["none", "params"]              # each value makes a comparison of its own,
lr = [1e-3, 2e-3]                       # each combination of values one
max_tokens = [400_000, 800_000]
pos = ["learned", "rope"]

[settings]                              # any other setting, under the word of its flag
dropout = 0.1

In place of `variants` stand the two ends of a staircase, and how it goes from one to the other:

from = "gqa:n_kv_head=2"
to = "mla:kv_lora_rank=16"
via = ["kind", "qk_rope_head_dim"]      # the order of steps, if not vgpt's own
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, ValidationError, field_validator, model_validator

from vgpt.errors import SettingsError, UsageError, did_you_mean
from vgpt.files.text import parse_toml, table_of
from vgpt.formatting import flag_of
from vgpt.schema import Section
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import format_value, leaves
from vgpt.settings.model import Position
from vgpt.settings.train import RUN_NAME

AXES = ("match", "max_tokens", "lr", "pos")
"""Keys whose values each make a comparison of their own."""

NOT_IN_FILES = (
    "attn",
    "run_name",
    "study",
    "ladder",
    "rungs",
    "from_",
    "to",
    "via",
    "group",
    "plan",
    "run_missing",
    "seal",
    "exploratory",
)
"""Settings that a file of comparisons cannot hold."""


class StudyFile(Section):
    """The content of a study file."""

    name: str
    """name of the study"""
    variants: tuple[str, ...] = ()
    """what is compared, the baseline first"""
    from_: Annotated[str | None, Field(alias="from")] = None
    """first stair of a staircase, which is compared in place of variants"""
    to: str | None = None
    """its last stair"""
    via: tuple[str, ...] = ()
    """the order of its steps"""
    preset: str | None = None
    """preset of all runs"""
    seeds: Annotated[int | Literal["auto"] | None, Field(union_mode="left_to_right")] = None
    """runs per variant; auto adds runs until all is decided"""
    match: tuple[str, ...] = ()
    """budgets to be made equal"""
    max_tokens: tuple[int, ...] = ()
    """budgets of training tokens"""
    lr: tuple[float, ...] = ()
    """learning rates"""
    pos: tuple[Position, ...] = ()
    """position encodings"""
    sweep_lr: int | None = None
    """learning rates to tune each variant over, around the given one"""
    settings: dict[str, str | bool | int | float] = Field(default_factory=dict)
    """any other settings, by flat name"""

    @field_validator(*AXES, mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return cast("list[Any]", value) if isinstance(value, list | tuple) else (value,)

    @field_validator("seeds", mode="before")
    @classmethod
    def _a_number_or_a_rule(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000
        if not whole and value not in ("auto", None):
            raise ValueError('must be a whole number from 1 to 1000, or "auto"')
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not RUN_NAME.fullmatch(name):
            raise ValueError("must be letters, digits, '.', '_' or '-', start with a letter or digit, at most 80 long")
        return name

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        ends = [self.from_, self.to]
        if self.variants and (self.via or ends != [None, None]):
            raise ValueError("variants, and from and to, exclude each other: both say what is compared")
        if not self.variants and None in ends:
            raise ValueError(
                'nothing is compared: name variants = ["mha", "gqa"], or the ends from and to of a staircase'
            )
        return self

    def stairs(self) -> dict[str, str]:
        """Return the staircase, as typed on the command line; nothing where variants are compared."""
        stated = {"from_": self.from_, "to": self.to, "via": ",".join(self.via)}
        return {name: value for name, value in stated.items() if value}

    def shared(self) -> dict[str, Any]:
        """Return what all its comparisons share, as typed on the command line: flat name -> value."""
        typed = {
            name: value if isinstance(value, bool) else format_value(value) for name, value in self.settings.items()
        }
        if self.seeds is not None:
            typed["seeds"] = str(self.seeds)
        if self.sweep_lr is not None:
            typed["sweep_lr"] = str(self.sweep_lr)
        return {**typed, **self.stairs(), "group": self.name}

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axes that have values, as typed on the command line."""
        return {name: tuple(map(format_value, values)) for name in AXES if (values := getattr(self, name))}


def listed_axes(typed: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the axes of which the command line lists values with commas: `--pos learned,rope`.

    Raises:
        UsageError: a list without values, or one that names a value twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in AXES:
        if "," not in (text := str(typed.get(name, ""))):
            continue
        values = tuple(value for part in text.split(",") if (value := part.strip()))
        if not values or len(set(values)) < len(values):
            raise UsageError(
                f"{flag_of(name)} {text!r} {'names a value twice' if values else 'names no value'}",
                "Give each value once, with commas between them.",
            )
        found[name] = values
    return found


def combinations(axes: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Return the values of the axes in each comparison, in the order of `AXES`."""
    names = [name for name in AXES if name in axes]
    return [dict(zip(names, values, strict=True)) for values in product(*(axes[name] for name in names))]


def load_study(path: Path) -> StudyFile:
    """Read a study file.

    Raises:
        UsageError: no such file, or no TOML in it.
        SettingsError: unknown keys, each with the nearest known one, or wrong values.
    """
    table = read_table("--study", path)
    known = leaves(CompareConfig)
    allowed = [name for name in known if name not in NOT_IN_FILES]
    keys = {field.alias or name: None for name, field in StudyFile.model_fields.items()}.keys()
    faults = [
        f"{name}: unknown key{did_you_mean(name, keys)}{_belongs_below(name, allowed)}" for name in table.keys() - keys
    ]
    for name in table_of(table.get("settings")):
        if name in keys and table.get(name) is not None:
            faults.append(f"settings.{name}: stands above as {name} already")
        elif name in NOT_IN_FILES:
            faults.append(f"settings.{name}: a study sets this itself")
        elif name not in known:
            faults.append(f"settings.{name}: unknown setting{did_you_mean(name, allowed)}")
    try:
        study = StudyFile.model_validate({name: table[name] for name in table.keys() & keys})
    except ValidationError as error:
        faults += told_faults(error)
        study = None
    if faults or study is None:
        raise SettingsError([f"{path}: {fault}" for fault in sorted(faults)], f"Keys: {', '.join(keys)}.")
    return study


def read_table(flag: str, path: Path) -> dict[str, Any]:
    """Return the content of a TOML file that a flag names.

    Raises:
        UsageError: no such file, or no TOML in it.
    """
    try:
        return parse_toml(path)
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{flag} {path}: not valid TOML: {error}", f"Mend {path}.") from error


def told_faults(error: ValidationError) -> list[str]:
    """Return what is wrong with the values of a file, each with its place and the value."""
    found: list[str] = []
    for fault in error.errors():
        given = "" if fault["type"] == "missing" or not fault["loc"] else f" = {fault['input']!r}"
        place = f"{'.'.join(map(str, fault['loc']))}{given}: " if fault["loc"] else ""
        found.append(f"{place}{fault['msg'].removeprefix('Value error, ')}")
    return found


def _belongs_below(name: str, allowed: list[str]) -> str:
    return "; it belongs below [settings]" if name in allowed else ""
