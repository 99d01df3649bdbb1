"""The list of variants, and what each costs in one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.attention.grammar import full_label, parse_attention, resolve_attention, short_label
from vgpt.attention.plugins import origin_of
from vgpt.attention.registry import variants
from vgpt.describe.costs import AttentionCosts, cache_sizes, flops_json, model_costs
from vgpt.errors import UsageError, VgptError
from vgpt.formatting import format_bytes, format_count, wrapping_label
from vgpt.settings.commands import VariantsConfig
from vgpt.settings.fields import Leaf, leaves
from vgpt.settings.loader import Sources, load_settings

BASE = "mha"
"""The variant that fits every backbone: what is wrong with it is wrong with the backbone."""


@dataclass(frozen=True)
class Entry:
    """One variant.

    Attributes:
        label: as `--attn` takes it, with all its settings where it fits.
        kind: its name.
        summary: what it is, in one line.
        plugin: where it comes from; empty for vgpt's own.
        costs: of the attention in all layers; None where it does not fit this model.
        kv_growth: bytes that the caches of all layers grow by per token at the context length.
        kv_bytes: bytes of the caches of one sequence by tokens: at the context length, and at `kv_at`.
        short: its name with those of its settings that are not its defaults.
        fault: why it does not fit.
    """

    label: str
    kind: str
    summary: str
    plugin: str = ""
    costs: AttentionCosts | None = None
    kv_growth: int = 0
    kv_bytes: tuple[int, int] = (0, 0)
    short: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Listing:
    """All entries, and the model that their costs are those of (its own variant means nothing)."""

    config: VariantsConfig
    entries: tuple[Entry, ...]


def list_variants(words: Sequence[str], sources: Sources) -> Listing:
    """Return the named variants, or all, with what each costs in the model of the other settings.

    A setting of a variant on the command line is meant for those of the variants that have it and do not set it
    themselves.

    Raises:
        UsageError: the settings of the backbone are wrong, a word is no variant, or no variant has a setting.
    """
    own = {name: leaf for name, leaf in leaves(VariantsConfig).items() if leaf.variants}
    given = {name: own[name] for name in own if name in sources.command_line}
    backbone = replace(sources, command_line={k: v for k, v in sources.command_line.items() if k not in given})
    config = load_settings(VariantsConfig, _with(backbone, attn=BASE)).settings
    n_layer = config.model.n_layer
    wanted = [_wanted(name, backbone, n_layer, given) for name in words] or _all(backbone, n_layer, given)
    for name, leaf in given.items():
        if not any(name in one.takes for one in wanted):
            raise UsageError(
                f"{leaf.flag} belongs to {', '.join(leaf.variants)}; asked for is {', '.join(w.text for w in wanted)}",
                f"Leave out {leaf.flag}, or name a variant that has it.",
            )
    entries = [
        _entry(one, _with(backbone, **{name: sources.command_line[name] for name in one.takes})) for one in wanted
    ]
    return Listing(config, tuple(entries))


def listing_json(listing: Listing) -> dict[str, Any]:
    """Return a listing as plain data."""
    config = listing.config
    return {
        "model": {k: v for k, v in config.model.model_dump(mode="json").items() if not k.startswith("attn")},
        "kv_dtype": config.kv_dtype,
        "kv_at": config.kv_at,
        "variants": [
            {
                "attention": entry.label,
                "summary": entry.summary,
                "plugin": entry.plugin or None,
                "fault": entry.fault or None,
                **({} if entry.costs is None else _numbers(entry, entry.costs, config.model.n_layer)),
            }
            for entry in listing.entries
        ],
    }


def listing_tables(listing: Listing) -> list[RenderableType]:
    """Return what to print: what the variants are, and what they cost. Fits 80 columns with short labels."""
    model = listing.config.model
    what = Table.grid(padding=(0, 2))
    for kind, summary, plugin, fault in dict.fromkeys((e.kind, e.summary, e.plugin, e.fault) for e in listing.entries):
        about = Text(summary)
        if plugin:
            about.append(f" [plug-in {plugin}]", "dim")
        if fault:
            about.append(f"\n{fault}", "yellow")
        what.add_row(Text(kind, "bold"), about)
    columns = ["parameters\nper layer", "FLOPs\nper token", "KV growth\nper token"]
    columns += [f"KV at\n{tokens:,}" for tokens in (model.block_size, listing.config.kv_at)]
    cost = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    cost.add_column("attention", max_width=26, overflow="fold")
    for column in columns:
        cost.add_column(column, justify="right", no_wrap=True)
    for entry in listing.entries:
        if entry.costs is not None:
            sizes = [format_bytes(size) for size in (entry.kv_growth, *entry.kv_bytes)]
            figures = [format_count(entry.costs.params / model.n_layer), format_count(entry.costs.forward), *sizes]
            cost.add_row(Text(wrapping_label(entry.short)), *figures)
    return [what, Text(), cost, _caption(listing)]


@dataclass(frozen=True)
class _Asked:
    """A variant as typed, its summary, the kinds of its layers, and the given settings that are meant for it."""

    text: str
    summary: str
    kinds: tuple[str, ...]
    takes: tuple[str, ...] = ()
    fault: str = ""


def _all(backbone: Sources, n_layer: int, given: Mapping[str, Leaf]) -> list[_Asked]:
    """Return every variant; what is wrong with one's defaults does not keep the others from being listed."""
    found: list[_Asked] = []
    for kind, config in variants().items():
        try:
            found.append(_wanted(kind, backbone, n_layer, given))
        except UsageError as error:
            found.append(_Asked(kind, config.summary, (kind,), fault=error.message))
    return found


def _wanted(text: str, backbone: Sources, n_layer: int, given: Mapping[str, Leaf]) -> _Asked:
    try:
        attn = resolve_attention(text)
    except ValidationError:
        load_settings(VariantsConfig, _with(backbone, attn=text))  # says what is wrong in words of the command line
        raise
    kinds = dict.fromkeys([attn.kind, *(attn.at(layer).kind for layer in range(n_layer))])
    inline = parse_attention(text)
    takes = [name for name, leaf in given.items() if name not in inline and kinds.keys() & leaf.variants.keys()]
    return _Asked(text, attn.summary, tuple(kinds), tuple(takes))


def _entry(wanted: _Asked, sources: Sources) -> Entry:
    plugin = next((str(origin) for kind in wanted.kinds if (origin := origin_of(kind)) is not None), "")
    entry = Entry(wanted.text, wanted.kinds[0], wanted.summary, plugin, fault=wanted.fault)
    if wanted.fault:
        return entry
    try:
        return _filled(entry, load_settings(VariantsConfig, _with(sources, attn=wanted.text)).settings)
    except VgptError as error:
        return replace(entry, fault=error.message)
    except Exception as error:
        if not plugin:
            raise
        # Foreign code may raise anything, and one variant must not keep the others from being listed.
        return replace(entry, fault=f"its costs fail: {type(error).__name__}: {error}")


def _filled(entry: Entry, config: VariantsConfig) -> Entry:
    model = config.model
    sizes = cache_sizes(model, config.element_bytes)
    return replace(
        entry,
        label=full_label(model.attn),
        short=short_label(model.attn),
        costs=model_costs(model),
        kv_growth=sizes.growth(model.block_size),
        kv_bytes=(sizes.at(model.block_size), sizes.at(config.kv_at)),
    )


def _with(sources: Sources, **values: Any) -> Sources:
    return replace(sources, command_line={**sources.command_line, **values})


def _numbers(entry: Entry, costs: AttentionCosts, n_layer: int) -> dict[str, Any]:
    return {
        "params_per_layer": costs.params / n_layer if costs.params % n_layer else costs.params // n_layer,
        "params": costs.params,
        "matmul_params": costs.matmul_params,
        **flops_json(costs),
        "kv_growth_bytes_per_token": entry.kv_growth,
        "kv_bytes_at_context": entry.kv_bytes[0],
        "kv_bytes_at_kv_at": entry.kv_bytes[1],
    }


def _caption(listing: Listing) -> Text:
    model = listing.config.model
    return Text(
        f"Attention of {model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, --pos {model.pos}. "
        f"FLOPs: forward, {model.block_size:,} tokens, visible pairs only. KV: one sequence, all layers, "
        f"{listing.config.kv_dtype}; growth at {model.block_size:,} tokens.",
        "dim",
    )
