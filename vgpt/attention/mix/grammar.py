"""Patterns of layers as text: `5xlocal:window_size=256+mha`, `local*5+mha`, `2x(3xlinear+mla)`.

- pattern: terms joined by `+`.
- term: a variant, as `kind` or `kind:setting=value,setting=value`; `N x term` or `term * N` without the spaces; or
  `Nx(pattern)`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from vgpt.errors import SettingsError

Table = dict[str, Any]
MOST_LAYERS = 1024
_COUNT_FIRST = re.compile(r"(\d+)\s*x\s*(.+)", re.S)
_COUNT_LAST = re.compile(r"([^*]+)\*\s*(\d+)", re.S)


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


def filled(text: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a pattern in which every layer has the settings given for its variant that it does not set itself."""
    return format_pattern([{**layer, **{**settings.get(layer["kind"], {}), **layer}} for layer in parse_pattern(text)])


def _term(term: str, whole: str) -> list[Table]:
    # Imported late: the registry reads patterns too.
    from vgpt.attention.registry import parse_variant

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
