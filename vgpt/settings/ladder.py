"""Ladder files: the rungs of a comparison, models from small to large, in one TOML file.

name = "my-ladder"                              # tag vgpt.group of its runs
preset = "demo"
lr = "2e-3 * (n_embd / 128) ^ -0.5"             # the rule, or one number for all rungs
tokens_per_parameter = 20                       # or max_tokens at each rung
warmup = 0.1                                    # share of the steps
evaluations = 4                                 # per run

[variants.mla]                                  # how settings of variants grow with the model
kv_lora_rank = "n_embd / 2"

[settings]                                      # any other setting, under the word of its flag
dropout = 0.1

[[rungs]]
name = "0.1M"
n_layer = 2
n_embd = 64
n_head = 2
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from vgpt.attention.registry import unknown_variant, variants
from vgpt.errors import SettingsError, did_you_mean
from vgpt.files.text import table_of
from vgpt.schema import Section
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import format_value, leaves
from vgpt.settings.study import NOT_IN_FILES, read_table, told_faults
from vgpt.settings.train import RUN_NAME

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "head_dim")
"""What settings of variants may be shares of."""
RULED = ("n_layer", "n_head", "n_embd", "lr", "min_lr", "max_steps", "max_tokens")
"""Settings that the rungs and rules of a ladder set."""

_NUMBER = r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
_NAME = f"({'|'.join(SIZES)})"
_RATE = re.compile(rf"{_NUMBER} *\* *\( *n_embd */ *{_NUMBER} *\) *\^ *(-?{_NUMBER})")
_SHARE = re.compile(rf"(?:{_NUMBER} *\* *)?{_NAME}(?: *([*/]) *{_NUMBER})?")
_RATE_FORM = "a number, or of the form 2e-3 * (n_embd / 128) ^ -0.5"

Rule = str | bool | int | float


class RungFile(Section):
    """One rung of a ladder file; what it leaves out is as the ladder's preset and settings say."""

    name: str
    """name of the rung"""
    n_layer: Annotated[int, Field(ge=1)]
    """transformer blocks"""
    n_embd: Annotated[int, Field(ge=1)]
    """width of the residual stream"""
    n_head: Annotated[int, Field(ge=1)]
    """query heads"""
    block_size: Annotated[int | None, Field(ge=1)] = None
    """context length in tokens"""
    batch_size: Annotated[int | None, Field(ge=1)] = None
    """sequences per micro-step and process"""
    tokens_per_step: Annotated[int | None, Field(ge=1)] = None
    """tokens of one step, of all processes"""
    tokens_per_parameter: Annotated[float | None, Field(gt=0)] = None
    """training tokens per non-embedding parameter, in place of the ladder's"""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    """training tokens, in place of a number per parameter"""
    lr: Annotated[float | None, Field(gt=0)] = None
    """learning rate, in place of the rule's"""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.max_tokens is not None and self.tokens_per_parameter is not None:
            raise ValueError("max_tokens and tokens_per_parameter both set the budget: leave one of them out")
        return self

    def typed(self) -> dict[str, str]:
        """Return its shape and batch, as typed on the command line: flat name -> value."""
        names = ("n_layer", "n_embd", "n_head", "block_size", "batch_size", "tokens_per_step")
        return {name: format_value(value) for name in names if (value := getattr(self, name)) is not None}


class LadderFile(Section):
    """The content of a ladder file."""

    name: str
    """name of the ladder"""
    preset: str | None = None
    """preset of all runs"""
    lr: float | str
    """learning rate of each rung: a number, or the rule that it follows"""
    tokens_per_parameter: Annotated[float | None, Field(gt=0)] = None
    """training tokens per non-embedding parameter of multi-head attention at the rung"""
    warmup: Annotated[float | None, Field(ge=0, le=1)] = None
    """share of the steps that is warm-up; none = --warmup-steps"""
    evaluations: Annotated[int | None, Field(ge=1)] = None
    """evaluations of each run, evenly spread; none = every --eval-interval steps"""
    seeds: Annotated[int | None, Field(ge=1, le=1000)] = None
    """runs per variant and rung"""
    sweep_lr: int | None = None
    """learning rates to tune each variant over at each rung, around that of the rule"""
    variants: dict[str, dict[str, Rule]] = Field(default_factory=dict[str, dict[str, Rule]])
    """settings by variant: values, or shares of a size, as in n_embd / 2"""
    settings: dict[str, Rule] = Field(default_factory=dict[str, Rule])
    """any other settings, by flat name"""
    rungs: Annotated[tuple[RungFile, ...], Field(min_length=2)]
    """from small to large"""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name)

    @field_validator("lr")
    @classmethod
    def _readable(cls, lr: float | str) -> float | str:
        if isinstance(lr, str) and _RATE.fullmatch(lr.strip()) is None:
            raise ValueError(f"must be {_RATE_FORM}")
        return lr

    @model_validator(mode="after")
    def _budgets_and_names(self) -> Self:
        names = [rung.name for rung in self.rungs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rungs are called {', '.join(sorted(twice))}")
        if self.tokens_per_parameter is None and (
            bare := [rung.name for rung in self.rungs if not (rung.max_tokens or rung.tokens_per_parameter)]
        ):
            raise ValueError(f"how many tokens does {bare[0]} train on? Give tokens_per_parameter or its max_tokens")
        return self

    def shared(self) -> dict[str, Any]:
        """Return what all rungs share, as typed on the command line: flat name -> value."""
        typed: dict[str, Any] = {
            name: value if isinstance(value, bool) else format_value(value) for name, value in self.settings.items()
        }
        for name in ("seeds", "sweep_lr"):
            if (value := getattr(self, name)) is not None:
                typed[name] = str(value)
        return {**typed, "group": self.name}

    def rate(self, rung: RungFile) -> float:
        """Return the learning rate of a rung."""
        if rung.lr is not None:
            return rung.lr
        if not isinstance(self.lr, str):
            return self.lr
        found = _RATE.fullmatch(self.lr.strip())
        assert found is not None  # validated
        base, width, power = (float(found[number]) for number in (1, 2, 3))
        return float(f"{base * (rung.n_embd / width) ** power:.4g}")

    def budget(self, rung: RungFile, parameters: int) -> float:
        """Return the training tokens of a rung with so many non-embedding parameters."""
        if rung.max_tokens is not None:
            return rung.max_tokens
        share = rung.tokens_per_parameter or self.tokens_per_parameter
        assert share is not None  # validated
        return share * parameters

    def scaled(self, rung: RungFile, block_size: int) -> dict[str, dict[str, str]]:
        """Return the settings of the variants at a rung: variant -> name -> value as typed.

        Raises:
            SettingsError: a share is no whole number there.
        """
        sizes = {"n_layer": rung.n_layer, "n_head": rung.n_head, "n_embd": rung.n_embd, "block_size": block_size}
        sizes["head_dim"] = rung.n_embd // rung.n_head
        return {
            kind: {name: _value(rule, sizes, f"rung {rung.name}: {kind}.{name}") for name, rule in own.items()}
            for kind, own in self.variants.items()
        }


def plain_name(name: str) -> str:
    """Return a name that files and tags can carry.

    Raises:
        ValueError: it is none.
    """
    if not RUN_NAME.fullmatch(name):
        raise ValueError("must be letters, digits, '.', '_' or '-', start with a letter or digit, at most 80 long")
    return name


def _value(rule: Rule, sizes: Mapping[str, int], where: str) -> str:
    """Return what a rule comes to, as typed."""
    found = _SHARE.fullmatch(rule.strip()) if isinstance(rule, str) else None
    if found is None:
        return format_value(rule)
    value = Fraction(found[1] or 1) * sizes[found[2]]
    if found[3]:
        value = value * Fraction(found[4]) if found[3] == "*" else value / Fraction(found[4])
    if value.denominator != 1:
        raise SettingsError(
            [f"{where} = {rule!r} is {float(value):g}, no whole number"], "Choose another share, or another width."
        )
    return str(value)


def load_ladder(path: Path) -> LadderFile:
    """Read a ladder file.

    Raises:
        UsageError: no such file, or no TOML in it.
        SettingsError: unknown keys, each with the nearest known one, or wrong values.
    """
    table = read_table("--ladder", path)
    known = leaves(CompareConfig)
    own = LadderFile.model_fields
    faults = [f"{name}: unknown key{did_you_mean(name, own)}" for name in table.keys() - own.keys()]
    for rung in table.get("rungs", ()) if isinstance(table.get("rungs"), list) else ():
        names = table_of(rung).keys() - RungFile.model_fields.keys()
        faults += [f"rungs: {name}: unknown key{did_you_mean(name, RungFile.model_fields)}" for name in names]
    for name in table_of(table.get("settings")):
        if name in own and name in table:
            faults.append(f"settings.{name}: stands above as {name} already")
        elif name in (*NOT_IN_FILES, *RULED) or (name in known and known[name].variants):
            faults.append(f"settings.{name}: a ladder sets this itself, by its rungs and [variants]")
        elif name not in known:
            faults.append(f"settings.{name}: unknown setting{did_you_mean(name, known)}")
    faults += _faults_of_variants(table_of(table.get("variants")))
    ladder = None
    try:
        kept = {name: table[name] for name in table.keys() & own.keys()}
        ladder = LadderFile.model_validate(kept)
    except ValidationError as error:
        faults += [fault for fault in told_faults(error) if "Extra inputs" not in fault]
    if faults or ladder is None:
        raise SettingsError(
            [f"{path}: {fault}" for fault in sorted(faults)],
            f"Keys: {', '.join(own)}; of a rung: {', '.join(RungFile.model_fields)}.",
        )
    return ladder


def _faults_of_variants(tables: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    for kind, own in tables.items():
        if kind not in variants():
            faults.append(f"variants.{kind}: {unknown_variant(kind)}")
            continue
        fields = variants()[kind].model_fields
        faults += [
            f"variants.{kind}.{name}: unknown setting{did_you_mean(name, fields)}"
            for name in table_of(own).keys() - fields.keys()
        ]
    return faults
