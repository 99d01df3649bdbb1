"""What runs remember of the plug-ins that their variants come from."""

from collections.abc import Sequence

from vgpt.attention.config import ModelAttention
from vgpt.attention.plugins import Plugin, origin_of
from vgpt.attention.registry import variants


def plugin_record(attn: ModelAttention, n_layer: int) -> list[dict[str, str]]:
    """Return what a run says about the plug-ins of its layers: variant, source, distribution, SHA-256 of the file."""
    return [
        {"kind": kind, "source": plugin.source, "distribution": plugin.distribution, "sha256": plugin.digest}
        for kind, plugin in _used(attn, n_layer)
    ]


def plugin_flags(attn: ModelAttention, n_layer: int) -> tuple[str, ...]:
    """Return the words of a command line that make the variants of all layers known; none where they are anyway."""
    named_ones = dict.fromkeys(plugin.source for _, plugin in _used(attn, n_layer) if not plugin.distribution)
    return tuple(word for source in named_ones for word in ("--plugin", source))


def absent_variants(recorded: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Return (variant, what makes it known) for the variants on record that are not there."""
    return [
        (entry["kind"], Plugin(entry["source"], entry["distribution"]).remedy)
        for entry in recorded
        if entry["kind"] not in variants()
    ]


def changed_variants(recorded: Sequence[dict[str, str]]) -> list[str]:
    """Return the variants on record whose plug-in is another one now, or has another content."""
    return [
        entry["kind"]
        for entry in recorded
        if (plugin := origin_of(entry["kind"])) is None or plugin.digest != entry["sha256"]
    ]


def _used(attn: ModelAttention, n_layer: int) -> list[tuple[str, Plugin]]:
    kinds = dict.fromkeys(attn.at(layer).kind for layer in range(n_layer))
    return [(kind, plugin) for kind in kinds if (plugin := origin_of(kind)) is not None]
