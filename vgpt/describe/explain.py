"""The anatomy of a variant for people: what `vgpt explain` prints."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.attention.config import AttentionConfig
from vgpt.attention.grammar import short_label
from vgpt.describe.anatomy import Anatomy, LayerAnatomy, confounds, count, description, sources
from vgpt.formatting import flag_of, format_bytes, format_count, wrapping_label
from vgpt.settings.fields import format_value


def explanation(found: Anatomy) -> Iterator[RenderableType]:
    """Yield what to print, in order; fits 80 columns."""
    yield from _heading(found)
    for one in found.groups:
        title = f"{_layers(one)}: {wrapping_label(short_label(one.group.config))}" if len(found.groups) > 1 else ""
        yield from _settings(one.group.config, title)
        yield _tensors(one)
        yield Text()
    yield _costs(found)
    yield Text()
    yield from _cache(found)
    yield from _supported(found)
    for one in found.groups:
        yield from _mask(one, found)


def _heading(found: Anatomy) -> Iterator[RenderableType]:
    yield Text.assemble((wrapping_label(short_label(found.attn)), "bold"), f"  {found.attn.summary}")
    if (text := description(found.attn)) and text.rstrip(".") != found.attn.summary.rstrip("."):
        yield Text(text)
    if text := sources(found.attn):
        yield Text(text, "dim")
    for plugin in found.plugins:
        yield Text(f"Plug-in: {plugin}", "dim")
    yield Text()


def _settings(config: AttentionConfig, title: str) -> Iterator[RenderableType]:
    if title:
        yield Text(title, "bold")
    if not type(config).model_fields:
        return
    table = Table.grid(padding=(0, 2))
    for name, info in type(config).model_fields.items():
        table.add_row(
            Text(flag_of(name)),
            format_value(getattr(config, name)),
            Text(info.description or "", "dim"),
        )
    yield table
    yield Text()


def _tensors(one: LayerAnatomy) -> Table:
    table = _table("Parameters of one layer", ["shape", "numbers"])
    for name, shape in one.tensors.items():
        table.add_row(Text(name), " x ".join(map(str, shape)), f"{count(shape):,}")
    wrong = "" if one.counted == one.costs.params else f" (its settings state {one.costs.params:,})"
    table.add_row(Text("all"), "", Text(f"{one.counted:,}{wrong}", "bold red" if wrong else "bold"))
    return table


def _costs(found: Anatomy) -> Table:
    model = found.config.model
    several = len(found.groups) > 1
    columns = [f"{one.group.config.kind}\n{_layers(one)}" if several else "one layer" for one in found.groups]
    table = _table(f"Costs at {model.block_size:,} tokens", [*columns, f"all {model.n_layer}"])
    everything = [*(one.costs for one in found.groups), found.costs]
    rows = {
        "parameters": [format_count(cost.params) for cost in everything],
        "keys per query, mean": [f"{cost.pairs:,.1f}" for cost in everything],
        "forward FLOPs per token": [format_count(cost.forward) for cost in everything],
        "  of it between tokens": [format_count(cost.attention) for cost in everything],
        "  ignoring causality": [format_count(cost.forward_dense) for cost in everything],
        "training FLOPs per token": [format_count(cost.train) for cost in everything],
        "decoding FLOPs per token": [format_count(cost.decode) for cost in everything],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _cache(found: Anatomy) -> Iterator[RenderableType]:
    config = found.config
    title = f"KV cache of one sequence, {config.model.n_layer} layers, {config.kv_dtype}"
    table = _table(title, ["kept", "of mha", "read per step", "decoding FLOPs"], first="context")
    for row in found.cache:
        table.add_row(
            f"{row.context:,}",
            format_bytes(row.bytes),
            f"{100 * row.bytes / row.bytes_of_mha:.3g}%",
            format_bytes(row.read_bytes),
            format_count(row.decode_flops),
        )
    yield table
    context = config.model.block_size
    notes = [f"It grows by {format_bytes(found.sizes.growth(context))} per token at {context:,}."]
    if config.model.pos == "learned":
        notes.append("Learned positions end there: longer contexts need another --pos.")
    yield Text(" ".join(notes), "dim")
    yield Text()


def _supported(found: Anatomy) -> Iterator[RenderableType]:
    """Which positions and switches apply, and why the others do not."""
    table = Table.grid(padding=(0, 2))
    for title, reasons in zip(("positions", "switches"), found.supported(), strict=True):
        flags = {name: f"--pos {name}" if title == "positions" else flag_of(name) for name in reasons}
        table.add_row(title, Text(", ".join(flags[name] for name in reasons if not reasons[name]) or "none"))
        for reason in dict.fromkeys(filter(None, reasons.values())):
            words = ", ".join(flags[name] for name in reasons if reasons[name] == reason)
            table.add_row("", Text(f"not {words}: {reason}", "dim"))
    for text in confounds(found):
        table.add_row("apart", Text(text))
    yield table


def _mask(one: LayerAnatomy, found: Anatomy) -> Iterator[RenderableType]:
    mask = one.mask
    where = f"layer {mask.layer}, head {mask.head}" + (" (heads differ)" if one.heads_differ else "")
    yield Text()
    yield Text(f"Who sees whom: {where}, {mask.tokens:,} tokens", "bold")
    yield Text("queries downwards, keys to the right; █ seen, · not seen", "dim")
    for line in mask.lines():
        yield Text(line, no_wrap=True)


def _layers(one: LayerAnatomy) -> str:
    """Return layer numbers with ranges: `layers 0-4, 6`."""
    runs: list[list[int]] = []
    for layer in one.group.layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1] = [runs[-1][0], layer]
        else:
            runs.append([layer])
    texts = ["-".join(str(end) for end in run) for run in runs]
    return ("layers " if len(one.group.layers) > 1 else "layer ") + ", ".join(texts)


def _table(title: str, columns: list[str], *, first: str = "") -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
