"""The flat view of a settings class: one entry per leaf, whatever section it sits in.

One flat name serves as flag (`--kv-lora-rank`), as environment variable (`VGPT_KV_LORA_RANK`) and as TOML key. Fields
of the attention variants are merged by name: the same word means the same thing in every variant that has it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vgpt.addresses import without_credentials
from vgpt.attention.config import ModelAttention
from vgpt.attention.registry import variants
from vgpt.files.text import table_of
from vgpt.formatting import flag_of

_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_LONGEST_METAVAR = 26
_WORDS: dict[type, str] = {int: "int", float: "float", str: "text", Path: "path"}


@dataclass
class Leaf:
    """One setting: its flat name, the path to it, and the variants it belongs to (empty: all)."""

    name: str
    panel: str
    info: FieldInfo
    path: tuple[str, ...]
    variants: dict[str, FieldInfo] = field(default_factory=dict[str, FieldInfo])

    @property
    def flag(self) -> str:
        """The option's spelling."""
        return flag_of(self.name)

    @property
    def env(self) -> str:
        """The environment variable's name."""
        return "VGPT_" + self.name.rstrip("_").upper()

    @property
    def is_attention(self) -> bool:
        """Whether this is the choice of the variant itself."""
        return is_attention(self.info)

    @property
    def is_bool(self) -> bool:
        """Whether the option is a switch."""
        return self._parts() == [bool]

    @property
    def is_sequence(self) -> bool:
        """Whether the value is a list, written with commas."""
        return get_origin(self.info.annotation) in (tuple, list)

    @property
    def hidden(self) -> bool:
        """Whether the help leaves it out: commands write it for each other."""
        extra = self.info.json_schema_extra
        return table_of(extra).get("hidden") is True

    @property
    def help(self) -> str:
        """What the setting is, with choices too many for the metavar, and each variant's default where it has some."""
        text = self.info.description or ""
        if self._choices_are_many():
            text += f": {', '.join(self.choices())}"
        if not self.variants:
            return text
        return f"{text} ({', '.join(f'{kind}: {format_value(info.default)}' for kind, info in self.variants.items())})"

    @property
    def default(self) -> Any:
        """The default as a flat value; None for settings of variants, whose defaults differ."""
        if self.variants:
            return None
        value = self.info.get_default(call_default_factory=True)
        return value.kind if isinstance(value, ModelAttention) else value

    def choices(self) -> list[str]:
        """Return the words that the setting takes, where they are few and known."""
        if self.is_attention:
            return list(variants())
        return [str(word) for part in self._parts() if get_origin(part) is Literal for word in get_args(part)]

    def metavar(self) -> str:
        """Return type, choices and limits, as shown in the help."""
        words = self.choices() + [_WORDS.get(part, "") for part in self._parts() if isinstance(part, type)]
        if self.is_sequence:
            words = ["a,b,..."]
        if self._choices_are_many():  # a column of words is not wrapped at "|" but torn anywhere
            words = ["word"]
        limits = [
            f"{sign}{limit}"
            for rule in self.info.metadata
            for name, sign in _SIGNS.items()
            if (limit := getattr(rule, name, None)) is not None and abs(limit) < 1_000_000
        ]
        return " ".join(["|".join(filter(None, words)), *limits])

    def _choices_are_many(self) -> bool:
        return len("|".join(self.choices())) > _LONGEST_METAVAR

    def _parts(self) -> list[Any]:
        kind = self.info.annotation
        if self.is_attention:
            return []
        if get_origin(kind) in (Union, UnionType):
            parts = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(kind)]
            return [part for part in parts if part is not NoneType]
        return [kind]


def is_attention(info: FieldInfo) -> bool:
    """Return whether a field holds the settings of an attention variant."""
    return isinstance(info.annotation, type) and issubclass(info.annotation, ModelAttention)


def format_value(value: Any) -> str:
    """Return a value as a person writes it on the command line."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, cast("list[Any]", value))) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ModelAttention):
        return value.kind
    return "none" if value is None else without_credentials(str(value))


def command_words(known: Mapping[str, Leaf], given: Mapping[str, Any]) -> list[str]:
    """Return the flags that give settings their values, as words of a command, in the order of `known`."""
    words: list[str] = []
    for name, leaf in known.items():
        if name not in given:
            continue
        value = format_value(given[name])
        if leaf.is_bool and value == "none":
            continue
        if leaf.is_bool:
            words.append(leaf.flag if value == "true" else f"--no-{leaf.flag[2:]}")
        else:
            words += [leaf.flag, value]
    return words


def leaves(model: type[BaseModel], path: tuple[str, ...] = (), panel: str = "Settings") -> dict[str, Leaf]:
    """Return every leaf setting of a settings class by flat name.

    Raises:
        TypeError: two settings would share a flag, or two variants give one name different types.
    """
    found: dict[str, Leaf] = {}
    for leaf in _walk(model, path, panel):
        if leaf.name in found:
            raise TypeError(f"{leaf.flag} would feed both {'.'.join(leaf.path)} and {'.'.join(found[leaf.name].path)}")
        found[leaf.name] = leaf
    return found


def _walk(model: type[BaseModel], path: tuple[str, ...], panel: str) -> Iterator[Leaf]:
    for name, info in model.model_fields.items():
        here = (*path, name)
        if is_attention(info):
            yield Leaf(name, "Attention", info, here)
            yield from _variant_leaves(here)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _walk(info.annotation, here, name.capitalize())
        else:
            yield Leaf(name, panel, info, here)


def _variant_leaves(path: tuple[str, ...]) -> Iterator[Leaf]:
    merged: dict[str, Leaf] = {}
    for kind, config in variants().items():
        for name, info in config.model_fields.items():
            leaf = merged.setdefault(name, Leaf(name, "Attention", info, (*path, name)))
            if leaf.info.annotation != info.annotation:
                owner = next(iter(leaf.variants))
                raise TypeError(f"attention {kind!r}: field {name!r} is of another type than in {owner!r}")
            leaf.variants[kind] = info
    yield from merged.values()
