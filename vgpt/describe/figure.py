"""The picture of a variant: who sees whom, and how its cache grows."""

# pyright: standard

from pathlib import Path
from typing import Any

from vgpt.attention.grammar import short_label
from vgpt.describe.anatomy import Anatomy, LayerAnatomy
from vgpt.describe.mask import mask_of
from vgpt.errors import VgptError
from vgpt.files.paths import may_replace
from vgpt.formatting import format_bytes, wrapping_label

_CELLS = 256
_MOST_MASKS = 4
_INK, _GRAY, _LIGHT = "#1f4e8c", "#7a7a7a", "#e6e6e6"
_SHORTEST, _LONGEST = 2**4, 2**15


def draw(found: Anatomy, path: Path) -> None:
    """Write the picture to a file, in the format of its ending (png, svg, pdf).

    Raises:
        VgptError: the file cannot be written, or no such format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    masks = [(one, 0) for one in found.groups[:_MOST_MASKS]]
    if len(masks) == 1 and found.groups[0].heads_differ:
        masks.append((found.groups[0], 1))
    figure = Figure(figsize=(4.4 * len(masks) + 5.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{wrapping_label(short_label(found.attn))}\n{found.attn.summary}", fontsize=12, wrap=True)
    axes = figure.subplots(1, len(masks) + 1, width_ratios=[4.4] * len(masks) + [5.0], squeeze=False)[0]
    for axis, (one, head) in zip(axes, masks, strict=False):
        _draw_mask(axis, one, head, name=len(found.groups) > 1)
    _draw_cache(axes[-1], found)
    kind = path.suffix or ".png"
    if not may_replace(path, kind):
        raise VgptError(f"--png {path} is a file of another kind, which is not replaced", "Name another file.")
    try:
        # Under the name that was given: without an ending, matplotlib would add one.
        figure.savefig(path, dpi=150, format=kind[1:])
    except (OSError, ValueError) as error:
        raise VgptError(f"--png {path} cannot be written: {error}", "Check the path and its ending.") from error


def _draw_mask(axis: Any, one: LayerAnatomy, head: int, *, name: bool) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    mask = mask_of(one.group.config, one.mask.tokens, _CELLS, _CELLS, layer=one.mask.layer, head=head)
    colors = LinearSegmentedColormap.from_list("seen", ["#ffffff", _INK]).with_extremes(bad=_LIGHT)
    end = mask.tokens
    cells = np.ma.masked_invalid(mask.cells)
    axis.imshow(cells, cmap=colors, vmin=0, vmax=1, extent=(0, end, end, 0), interpolation="nearest")
    where = f"layer {mask.layer}, head {head}{' (heads differ)' if one.heads_differ else ''}"
    axis.set_title(
        f"{wrapping_label(short_label(one.group.config))}\n{where}" if name else f"Who sees whom: {where}", fontsize=10
    )
    axis.set_xlabel("key (blue: seen, white: not seen, gray: future)")
    axis.set_ylabel("query")
    ticks = [end * quarter // 4 for quarter in range(5)]
    axis.set_xticks(ticks)
    axis.set_yticks(ticks)


def _draw_cache(axis: Any, found: Anatomy) -> None:
    model = found.config.model
    last = max(_LONGEST, model.block_size)
    powers = [n for n in (2**power for power in range(31)) if _SHORTEST <= n <= last]
    contexts = sorted({*powers, *(n * 3 // 2 for n in powers[:-1]), model.block_size, last})
    kept = [found.sizes.at(n) for n in contexts]
    read = [found.sizes.read(n) for n in contexts]
    of_mha = [found.sizes_of_mha.at(n) for n in contexts]
    axis.plot(contexts, of_mha, color=_GRAY, linestyle="--", label="mha", zorder=3)
    axis.plot(contexts, kept, color=_INK, linewidth=2, label="kept")
    if read != kept:
        axis.plot(contexts, read, color=_INK, linestyle=":", linewidth=2, label="read per step")
    axis.axvline(model.block_size, color=_GRAY, linewidth=0.8)
    note = f" block_size {model.block_size:,}"
    axis.text(model.block_size, 0.01, note, color=_GRAY, fontsize=8, transform=axis.get_xaxis_transform())
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks([n for n in powers if n.bit_length() % 2 == 0])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: format_bytes(value))
    axis.set_xlabel("tokens of context")
    axis.set_title(f"KV cache of one sequence, {model.n_layer} layers, {found.config.kv_dtype}", fontsize=10)
    axis.grid(color=_LIGHT, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
