"""Attention as text and as settings: `gqa:n_kv_head=4`, and patterns of layers such as `5xlocal:window_size=256+mha`.

- pattern: terms joined by `+`.
- term: a variant, as `kind` or `kind:setting=value,setting=value`; `N x term` or `term * N` without the spaces; or
  `Nx(pattern)`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

from vgpt.attention.config import AttentionConfig
from vgpt.attention.registry import unknown_variant, variants
from vgpt.errors import SettingsError

Table = dict[str, Any]
MOST_LAYERS = 1024
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
        return {"kind": "mix", "pattern": text}
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


def resolve_attention(value: Any) -> AttentionConfig:
    """Build a variant's settings from a table with a `kind`, a text like `gqa:n_kv_head=4`, or settings as they are.

    Raises:
        SettingsError: an unknown variant.
        pydantic.ValidationError: wrong settings of a known variant.
    """
    if isinstance(value, AttentionConfig):
        return value
    table: dict[str, Any] = parse_attention(value) if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    config = variants().get(str(kind))
    if config is None:
        raise SettingsError([unknown_variant(str(kind))])
    return config.model_validate({name: _typed(config, name, given) for name, given in table.items()})


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


def format_pattern(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the shortest text without brackets that `parse_pattern` reads as these layers."""
    terms = [(len(list(group)), name) for name, group in groupby(map(format_variant, layers))]
    return "+".join(f"{count}x{name}" if count > 1 else name for count, name in terms)


def format_variant(table: Mapping[str, Any]) -> str:
    """Return a table as `kind:setting=value,...`."""
    settings = ",".join(f"{name}={_word(value)}" for name, value in table.items() if name != "kind")
    return f"{table['kind']}:{settings}" if settings else str(table["kind"])


def attention_label(kind: str, settings: dict[str, Any]) -> str:
    """Return a variant with its settings as a person would write it: `gqa:n_kv_head=2`, `5xlocal+mha`."""
    if kind == "mix" and "pattern" in settings:
        return str(settings["pattern"])
    return format_variant({"kind": kind, **settings})


def filled(text: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a pattern in which every layer has the settings given for its variant that it does not set itself."""
    return format_pattern([{**layer, **{**settings.get(layer["kind"], {}), **layer}} for layer in parse_pattern(text)])


def _typed(config: type[AttentionConfig], name: str, value: Any) -> Any:
    """Return None for the word `none`, unless it is one of the words that the setting takes."""
    if not isinstance(value, str) or value.lower() != "none" or name not in config.model_fields:
        return value
    return value if "none" in get_args(config.model_fields[name].annotation) else None


def _term(term: str, whole: str) -> list[Table]:
    # Imported late: the registry reads patterns too.

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
