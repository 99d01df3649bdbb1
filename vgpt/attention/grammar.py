"""Attention as text and as settings: `gqa:n_kv_head=4`, and patterns of layers such as `5xlocal:window_size=256+mha`.

- pattern: terms joined by `+`.
- term: a variant, as `kind` or `kind:setting=value,setting=value`; `N x term` or `term * N` without the spaces; or
  `Nx(pattern)`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

from vgpt.attention.config import AttentionConfig, ModelAttention
from vgpt.attention.registry import unknown_variant, variants
from vgpt.errors import SettingsError

Table = dict[str, Any]
MOST_LAYERS = 1024
_MIX = "mix"
"""The kind of settings that hold a pattern, under the name `pattern`."""
_COUNT_FIRST = re.compile(r"(\d+)\s*x\s*(.+)", re.S)
_COUNT_LAST = re.compile(r"([^*]+)\*\s*(\d+)", re.S)


def parse_attention(text: str) -> dict[str, Any]:
    """Read `gqa:n_kv_head=4,...` as the settings table `{"kind": "gqa", "n_kv_head": "4"}`.

    A pattern of layers, `5xlocal+mha`, becomes `{"kind": "mix", "pattern": "5xlocal+mha"}`.

    Raises:
        SettingsError: an unknown variant, or a malformed setting or pattern.
    """
    if is_pattern(text):
        parse_pattern(text)
        return {"kind": _MIX, "pattern": text}
    return parse_variant(text)


def parse_variant(text: str) -> dict[str, Any]:
    """Read one variant, as `parse_attention` does.

    Raises:
        SettingsError: an unknown variant or a malformed setting.
    """
    kind, _, rest = text.partition(":")
    kind = kind.strip()
    known = variants()
    if kind not in known:
        raise SettingsError([unknown_variant(kind)])
    table: dict[str, Any] = {"kind": kind}
    for item in filter(None, rest.split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise SettingsError([f"--attn {text}: {item!r} is not of the form setting=value"])
        table[name] = value.strip()
    return table


def resolve_attention(value: Any) -> ModelAttention:
    """Build settings of attention from a table with a `kind`, a text like `gqa:n_kv_head=4`, or settings as they are.

    Raises:
        SettingsError: an unknown variant.
        pydantic.ValidationError: wrong settings of a known variant.
    """
    if isinstance(value, ModelAttention):
        return value
    table: dict[str, Any] = parse_attention(value) if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    config = variants().get(str(kind))
    if config is None:
        raise SettingsError([unknown_variant(str(kind))])
    return config.model_validate({name: _typed(config, name, given) for name, given in table.items()})


def resolve_layer(value: Any) -> AttentionConfig:
    """Build the settings of one layer, as `resolve_attention` does.

    Raises:
        SettingsError: an unknown variant, or a pattern of layers.
        pydantic.ValidationError: wrong settings of a known variant.
    """
    config = resolve_attention(value)
    if not isinstance(config, AttentionConfig):
        raise SettingsError([f"{config.kind} is a pattern itself; write out its layers, as in 2x(5xlocal+mha)+mqa"])
    return config


def is_pattern(text: str) -> bool:
    """Return whether a text after `--attn` is a pattern of layers, not the name of one variant."""
    return bool(set("+(*") & set(text)) or _COUNT_FIRST.fullmatch(text.strip()) is not None


def parse_pattern(text: str) -> list[Table]:
    """Return one table per layer of the pattern: `kind`, and the settings that are written out, as text.

    Raises:
        SettingsError: it is no pattern.
    """
    layers: list[Table] = []
    for term in _split(text, text):
        layers += _term(term.strip(), text)
        if len(layers) > MOST_LAYERS:
            raise SettingsError([f"--attn {text}: more than {MOST_LAYERS} layers"])
    return layers


@dataclass(frozen=True)
class LayerPattern:
    """Variants over the layers of a model, repeated and cut off at the last one.

    Attributes:
        unit: settings of the layers of one repetition.
    """

    unit: tuple[AttentionConfig, ...]

    @staticmethod
    def read(text: str) -> "LayerPattern":
        """Read a pattern such as `5xlocal+mha`.

        Raises:
            SettingsError: it is no pattern, or names an unknown variant or another pattern.
            pydantic.ValidationError: wrong settings of a known variant.
        """
        return LayerPattern(tuple(resolve_layer(table) for table in parse_pattern(text)))

    @staticmethod
    def of(attn: ModelAttention) -> "LayerPattern":
        """Return the pattern of a model whose `--attn` is this; that of a plain variant repeats one layer."""
        pattern = pattern_in(attn.kind, attn.model_dump(mode="json"))
        return LayerPattern((resolve_layer(attn),)) if pattern is None else LayerPattern.read(pattern)

    def layers(self, n: int) -> tuple[AttentionConfig, ...]:
        """Return the settings of the layers of a model of `n`."""
        return tuple(self.unit[layer % len(self.unit)] for layer in range(n))

    def __str__(self) -> str:
        """Return one repetition with every setting spelled out, so that equal patterns are equal texts."""
        return format_pattern(config.model_dump(mode="json") for config in self.unit)

    @property
    def short(self) -> str:
        """One repetition with those settings that are not their variant's defaults."""
        return format_pattern(map(_changed, self.unit))


def pattern_in(kind: str, settings: Mapping[str, Any]) -> str | None:
    """Return the pattern that settings of a variant hold; None where the variant is not a mix or has none."""
    return str(settings["pattern"]) if kind == _MIX and "pattern" in settings else None


def full_label(attn: ModelAttention) -> str:
    """Return a variant with all its settings, as `--attn` takes it."""
    return attention_label(attn.kind, attn.model_dump(mode="json"))


def short_label(attn: ModelAttention) -> str:
    """Return a variant with those of its settings that are not its defaults."""
    return LayerPattern.of(attn).short if attn.kind == _MIX else format_variant(_changed(attn))


def display_label(attn: ModelAttention) -> str:
    """Return a variant with its first setting, the one that it is about, and those others that are not its defaults.

    A reader of results does not know the defaults: `gqa:n_kv_head=2` tells what `gqa` does not.
    """
    first = next(iter(type(attn).model_fields), None)
    if not isinstance(attn, AttentionConfig) or first is None:
        return short_label(attn)
    changed = _changed(attn)
    return format_variant({"kind": changed.pop("kind"), first: attn.model_dump(mode="json")[first], **changed})


def attention_label(kind: str, settings: Mapping[str, Any]) -> str:
    """Return a variant with the settings that are on record, as a person would write it: `gqa:n_kv_head=2`.

    The settings stand in the variant's own order, whatever that of the record, so that labels can be compared.
    """
    if (pattern := pattern_in(kind, settings)) is not None:
        return pattern
    known = variants()
    own = [name for name in known[kind].model_fields if name in settings] if kind in known else []
    return format_variant({"kind": kind, **{name: settings[name] for name in own}, **settings})


def format_pattern(layers: Iterable[Mapping[str, Any]]) -> str:
    """Return the shortest text without brackets that `parse_pattern` reads as these layers."""
    terms = [(len(list(group)), name) for name, group in groupby(map(format_variant, layers))]
    return "+".join(f"{count}x{name}" if count > 1 else name for count, name in terms)


def format_variant(table: Mapping[str, Any]) -> str:
    """Return a table as `kind:setting=value,...`."""
    settings = ",".join(f"{name}={_word(value)}" for name, value in table.items() if name != "kind")
    return f"{table['kind']}:{settings}" if settings else str(table["kind"])


def filled(text: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a pattern in which every layer has the settings given for its variant that it does not set itself."""
    return format_pattern([{**layer, **{**settings.get(layer["kind"], {}), **layer}} for layer in parse_pattern(text)])


def _changed(attn: ModelAttention) -> Table:
    plain = {name: info.get_default(call_default_factory=True) for name, info in type(attn).model_fields.items()}
    dumped = attn.model_dump(mode="json")
    return {"kind": attn.kind} | {name: dumped[name] for name in plain if getattr(attn, name) != plain[name]}


def _typed(config: type[ModelAttention], name: str, value: Any) -> Any:
    """Return None for the word `none`, unless it is one of the words that the setting takes."""
    if not isinstance(value, str) or value.lower() != "none" or name not in config.model_fields:
        return value
    return value if "none" in get_args(config.model_fields[name].annotation) else None


def _term(term: str, whole: str) -> list[Table]:
    count, body = 1, term
    if first := _COUNT_FIRST.fullmatch(term):
        count, body = int(first[1]), first[2].strip()
    elif last := _COUNT_LAST.fullmatch(term):
        count, body = int(last[2]), last[1].strip()
    if not 1 <= count <= MOST_LAYERS:
        raise SettingsError([f"--attn {whole}: {term!r} asks for {count} layers; possible: 1 to {MOST_LAYERS}"])
    if body.startswith("(") and body.endswith(")"):
        return parse_pattern(body[1:-1]) * count
    if not body or set("()*") & set(body):
        raise SettingsError([f"--attn {whole}: {term!r} is no term of a pattern, such as 5xlocal or 2x(local+mha)"])
    return [parse_variant(body)] * count


def _split(text: str, whole: str) -> list[str]:
    """Split at each + outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == "+" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SettingsError([f"--attn {whole}: its brackets do not match"])
    return parts


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
