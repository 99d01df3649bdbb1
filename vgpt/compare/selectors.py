"""The words after `vgpt compare`: variants, variants with settings, or runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vgpt.attention.grammar import (
    attention_label,
    display_label,
    filled,
    is_pattern,
    parse_attention,
    parse_pattern,
    pattern_in,
    resolve_attention,
)
from vgpt.attention.registry import variants
from vgpt.errors import SettingsError, UsageError, did_you_mean
from vgpt.formatting import flag_of
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Loaded, Sources, load_settings

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class Selector:
    """One thing to compare: a variant with those of its settings that were given, or a run.

    Attributes:
        text: the word as typed.
        kind: the variant; empty for a run.
        settings: settings of the variant by name, as typed.
        run_name: name of the run; empty for a variant.
    """

    text: str
    kind: str = ""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    run_name: str = ""

    @property
    def attn(self) -> str:
        """The variant as `--attn` takes it."""
        return attention_label(self.kind, self.settings)

    def typed_settings(self) -> dict[str, Any]:
        """Return the given settings as values of their types.

        Raises:
            SettingsError: a setting that the variant does not have, or a wrong value.
        """
        try:
            config = resolve_attention({"kind": self.kind, **self.settings})
        except ValidationError as error:
            fields = list(variants()[self.kind].model_fields)
            faults = [f"{self.attn}: {_explained(fault, fields)}" for fault in error.errors()]
            raise SettingsError(faults, f"Settings of {self.kind}: {', '.join(fields) or 'none'}.") from error
        return {name: getattr(config, name) for name in self.settings}


def parse_selectors(words: Sequence[str]) -> list[Selector]:
    """Read the words; one that is no variant is taken for a run's name, its directory or its checkpoint directory.

    Raises:
        UsageError: a word stands twice, a variant with settings is unknown, or settings are wrong.
    """
    selectors = [_parse(word) for word in words]
    for number, selector in enumerate(selectors):
        if (selector.attn, selector.run_name) in [(other.attn, other.run_name) for other in selectors[:number]]:
            raise UsageError(f"{selector.text!r} is named twice", "Name each variant or run once.")
    return selectors


def with_variant_flags(selectors: Sequence[Selector], flags: Mapping[str, str], *, strict: bool) -> list[Selector]:
    """Give settings of variants (`--n-kv-head 4`) to each selector whose variant has them and does not set them itself.

    Args:
        selectors: what is compared.
        flags: flat name -> value as typed.
        strict: whether a setting that no selector takes is an error, as it is on the command line.

    Raises:
        UsageError: no selector takes one of the settings.
    """
    given = {index: dict(selector.settings) for index, selector in enumerate(selectors)}
    for name, value in flags.items():
        takers = [index for index, selector in enumerate(selectors) if _takes(selector, name)]
        if strict and not takers:
            raise UsageError(*_nobody_takes(name, selectors))
        for index in takers:
            pattern = pattern_in(selectors[index].kind, given[index])
            if pattern is not None and name != "pattern":
                owners = {kind: {name: value} for kind in variants() if name in variants()[kind].model_fields}
                given[index]["pattern"] = filled(pattern, owners)
            else:
                given[index][name] = value
    changed = [Selector(t.text, t.kind, given[index], t.run_name) for index, t in enumerate(selectors)]
    for selector in changed:
        if selector.kind:
            selector.typed_settings()
    return changed


def with_own_settings(selectors: Sequence[Selector], settings: Mapping[str, Mapping[str, str]]) -> list[Selector]:
    """Give each selector the settings of its variant, or of the layers of its pattern, that it does not set itself.

    Args:
        selectors: what is compared.
        settings: variant -> name -> value as typed.
    """
    found: list[Selector] = []
    for one in selectors:
        given = {**settings.get(one.kind, {}), **one.settings}
        if (pattern := pattern_in(one.kind, given)) is not None:
            given["pattern"] = filled(pattern, settings)
        found.append(replace(one, settings=given))
        if one.kind:
            found[-1].typed_settings()
    return found


def _takes(selector: Selector, name: str) -> bool:
    """Return whether a setting is one of the term's variant, or of a layer of its pattern, and is not set there."""
    if not selector.kind:
        return False
    pattern = pattern_in(selector.kind, selector.settings)
    if pattern is not None and name != "pattern":
        layers = parse_pattern(pattern)
        return any(name in variants()[layer["kind"]].model_fields and name not in layer for layer in layers)
    return name in variants()[selector.kind].model_fields and name not in selector.settings


def _parse(word: str) -> Selector:
    kind, colon, _ = word.partition(":")
    if kind in variants() or ("/" not in word and (colon or is_pattern(word))):
        table = parse_attention(word)
        kind = table.pop("kind")
        selector = Selector(word, kind, table)
        selector.typed_settings()
        return selector
    parts = PurePath(word).parts
    if "ckpt" in parts[1:]:
        parts = parts[: parts.index("ckpt", 1)]
    return Selector(word, run_name=parts[-1] if parts else word)


def _explained(fault: ErrorDetails, fields: Sequence[str]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    unknown = fault["type"] == "extra_forbidden"
    reason = "unknown setting" + did_you_mean(name, fields) if unknown else fault["msg"]
    return f"{name} = {fault['input']!r}: {reason}"


def _nobody_takes(name: str, selectors: Sequence[Selector]) -> tuple[str, str]:
    flag = flag_of(name)
    owners = [kind for kind, config in variants().items() if name in config.model_fields]
    if any(selector.kind in owners for selector in selectors):
        return (
            f"{flag}: every variant that has it sets it already",
            f"Leave out {flag}, or the setting after the colon.",
        )
    listed = ", ".join(selector.text for selector in selectors) or "no variant"
    return (
        f"{flag} belongs to {', '.join(owners)}; this comparison names {listed}",
        f"Leave out {flag}, or name a variant that has it.",
    )


def settings_of_each(model: type[S], names: Sequence[str], sources: Sources) -> dict[str, Loaded[S]]:
    """Return the settings of each variant that a command's argument names, by its label.

    Raises:
        UsageError: a name is no variant, stands twice, or a setting belongs to none of them.
    """
    own = {name for name, leaf in leaves(model).items() if leaf.variants}
    flags = {name: str(value) for name, value in sources.command_line.items() if name in own}
    terms = parse_selectors(names)
    if runs := [term.text for term in terms if not term.kind]:
        raise UsageError(f"{runs[0]!r} is no variant", f"Variants: {', '.join(variants())}.")
    rest = {name: value for name, value in sources.command_line.items() if name not in own}
    found: dict[str, Loaded[S]] = {}
    for term in with_variant_flags(terms, flags, strict=True):
        loaded = load_settings(model, replace(sources, command_line={**rest, "attn": term.attn}))
        label = display_label(getattr(loaded.settings, "model").attn)  # noqa: B009 - every such model has one
        if label in found:
            raise UsageError(f"{label} would be measured twice", "Name each variant once.")
        found[label] = loaded
    return found
