"""Variants as a person writes them: in full, and in short."""

from typing import Any

from vgpt.attention.config import AttentionConfig
from vgpt.attention.grammar import attention_label, format_pattern, format_variant
from vgpt.attention.mix.config import MixConfig


def full_label(attn: AttentionConfig) -> str:
    """Return a variant with all its settings, as `--attn` takes it."""
    settings = attn.model_dump(mode="json")
    return attention_label(settings.pop("kind"), settings)


def short_label(attn: AttentionConfig) -> str:
    """Return a variant with those of its settings that are not its defaults."""
    if isinstance(attn, MixConfig):
        return format_pattern([_changed(layer) for layer in attn.unit])
    return format_variant(_changed(attn))


def display_label(attn: AttentionConfig) -> str:
    """Return a variant with its first setting, the one that it is about, and those others that are not its defaults.

    A reader of results does not know the defaults: `gqa:n_kv_head=2` tells what `gqa` does not.
    """
    if isinstance(attn, MixConfig):
        return short_label(attn)
    first = next(iter(type(attn).model_fields), None)
    named = {} if first is None else {first: attn.model_dump(mode="json")[first]}
    changed = _changed(attn)
    return format_variant({"kind": changed.pop("kind"), **named, **changed})


def _changed(attn: AttentionConfig) -> dict[str, Any]:
    plain = {name: info.get_default(call_default_factory=True) for name, info in type(attn).model_fields.items()}
    dumped = attn.model_dump(mode="json")
    return {"kind": attn.kind} | {name: dumped[name] for name in plain if getattr(attn, name) != plain[name]}
