"""One variant taken apart: settings, parameters, costs, cache and mask in one model."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vgpt.attention.config import AttentionConfig, ModelAttention, Shape
from vgpt.attention.grammar import full_label
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.options import OPTIONS
from vgpt.attention.plugins import origin_of
from vgpt.describe.costs import (
    AttentionCosts,
    CacheSizes,
    LayerGroup,
    cache_sizes,
    costs,
    decode_flops,
    flops_json,
    groups,
    model_costs,
)
from vgpt.describe.mask import Mask, heads_differ, mask_for_terminal
from vgpt.settings.commands import ExplainConfig

CONTEXTS = tuple(2**power for power in range(8, 16))
"""Context lengths of the table of cache sizes: 256 to 32,768."""

Tensors = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerAnatomy:
    """Layers with the same settings.

    Attributes:
        group: the layers and their settings.
        tensors: shape of each parameter of one layer.
        costs: of one layer.
        mask: of the first head of the first of the layers.
        heads_differ: whether other heads have other masks.
    """

    group: LayerGroup
    tensors: Tensors
    costs: AttentionCosts
    mask: Mask
    heads_differ: bool

    @property
    def counted(self) -> int:
        """Parameters of one layer, counted from its tensors."""
        return sum(count(shape) for shape in self.tensors.values())


@dataclass(frozen=True)
class CacheRow:
    """The caches of all layers for one sequence of `context` tokens, in bytes, and FLOPs of one more token."""

    context: int
    bytes: int
    read_bytes: int
    bytes_of_mha: int
    decode_flops: int


@dataclass(frozen=True)
class Anatomy:
    """All that is to be said about a variant in one model."""

    config: ExplainConfig
    groups: tuple[LayerAnatomy, ...]
    costs: AttentionCosts
    cache: tuple[CacheRow, ...]
    sizes: CacheSizes
    sizes_of_mha: CacheSizes

    @property
    def attn(self) -> ModelAttention:
        """The variant's settings."""
        return self.config.model.attn

    @property
    def plugins(self) -> list[str]:
        """The plug-ins that its layers come from."""
        kinds = dict.fromkeys(one.group.config.kind for one in self.groups)
        return list(dict.fromkeys(str(plugin) for kind in kinds if (plugin := origin_of(kind)) is not None))

    def supported(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return positions and switches with the reason against each that does not apply; empty where it does."""
        return _reasons(self.groups, positions=True), _reasons(self.groups, positions=False)


def anatomy(config: ExplainConfig, tensors_of: Callable[[AttentionConfig, Shape, int], Tensors]) -> Anatomy:
    """Take the variant of `config.model` apart.

    Args:
        config: the model, and what to show.
        tensors_of: returns the shapes of the parameters of one layer.

    Raises:
        VgptError: the variant does not state its costs, or its module cannot be built.
    """
    model = config.model
    sizes = cache_sizes(model, config.element_bytes)
    plain = cache_sizes(model.model_copy(update={"attn": MHAConfig()}), config.element_bytes)
    rows = [CacheRow(n, sizes.at(n), sizes.read(n), plain.at(n), decode_flops(model, n)) for n in CONTEXTS]
    found: list[LayerAnatomy] = []
    for group in groups(model):
        mask = mask_for_terminal(group.config, config.pictured, group.layers[0])
        found.append(
            LayerAnatomy(
                group,
                tensors_of(group.config, model.shape, group.layers[0]),
                costs(group.config, model.shape, model.block_size),
                mask,
                heads_differ(group.config, mask, model.n_head),
            )
        )
    return Anatomy(config, tuple(found), model_costs(model), tuple(rows), sizes, plain)


def count(shape: tuple[int, ...]) -> int:
    """Return the numbers in a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total


def description(attn: ModelAttention) -> str:
    """Return the first paragraph of what the variant's class says about itself, on one line."""
    return " ".join((inspect.getdoc(type(attn)) or "").partition("\n\n")[0].split())


def sources(attn: ModelAttention) -> str:
    """Return the paper that the variant is from, as its class, or else the file of its class, names it."""
    texts = [inspect.getdoc(type(attn)) or "", inspect.getdoc(sys.modules.get(type(attn).__module__)) or ""]
    for text in texts:
        for paragraph in text.split("\n\n"):
            if paragraph.startswith(("Source:", "Sources:")):
                return " ".join(paragraph.split())
    return ""


def anatomy_json(found: Anatomy) -> dict[str, Any]:
    """Return an anatomy as plain data; the tensors, costs and mask are those of one layer each."""
    model = found.config.model
    positions, switches = found.supported()
    return {
        "attention": full_label(found.attn),
        "summary": found.attn.summary,
        "description": description(found.attn),
        "sources": sources(found.attn),
        "plugins": found.plugins,
        "model": {"n_layer": model.n_layer, **asdict(model.shape)},
        "layers": [_layer_json(one) for one in found.groups],
        "all_layers": {
            "params": found.costs.params,
            "matmul_params": found.costs.matmul_params,
            **flops_json(found.costs),
        },
        "cache": {
            "dtype": found.config.kv_dtype,
            "growth_bytes_per_token": found.sizes.growth(model.block_size),
            "contexts": [asdict(row) for row in found.cache],
        },
        "positions": {name: reason or True for name, reason in positions.items()},
        "switches": {name: reason or True for name, reason in switches.items()},
        "confounds": confounds(found),
    }


def confounds(found: Anatomy) -> list[str]:
    """Return what besides attention itself sets the variant apart, over all layers."""
    shape = found.config.model.shape
    return list(dict.fromkeys(text for one in found.groups for text in one.group.config.confounds(shape)))


def _layer_json(one: LayerAnatomy) -> dict[str, Any]:
    config, mask = one.group.config, one.mask
    return {
        "layers": list(one.group.layers),
        "attention": full_label(config),
        "settings": config.model_dump(mode="json"),
        "tensors": {name: list(shape) for name, shape in one.tensors.items()},
        "params": one.costs.params,
        "params_counted": one.counted,
        "matmul_params": one.costs.matmul_params,
        **flops_json(one.costs),
        "mask": {
            "tokens": mask.tokens,
            "layer": mask.layer,
            "head": mask.head,
            "heads_differ": one.heads_differ,
            "picture": mask.lines(),
        },
    }


def _reasons(groups: tuple[LayerAnatomy, ...], *, positions: bool) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for option in OPTIONS:
        if option.position == positions:
            answers = ((one.group.config, one.group.config.refusal(option)) for one in groups)
            found = (why or f"{config.kind} has no use for it" for config, why in answers if why is not None)
            reasons[option.name] = next(found, "")
    return reasons
