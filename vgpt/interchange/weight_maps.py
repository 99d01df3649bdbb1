"""Which attention's weights become which other's, layer by layer.

Multi-head, multi-query and grouped-query attention, windows, block-sparse and linear attention have one layout: queries
in H heads, keys and values in G, then a projection back. Between them weights stay as they are, and where the number of
key/value heads changes, heads are repeated, which changes nothing, or mean-pooled (Ainslie et al. 2023, arXiv
2305.13245, section 2.1). All of them become MLA by `vgpt.interchange.latent_map`; nothing leads back from MLA.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grammar import full_label
from vgpt.attention.grouped.config import GroupedConfig
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.linear.config import LinearConfig
from vgpt.errors import UsageError
from vgpt.interchange.latent_map import Notes, Weights, shape_fault, to_latent
from vgpt.model.config import GPT2Config

_OWN = "vgpt.attention"
"""Package of the variants that are known here."""


def check_map(old: GPT2Config, new: GPT2Config) -> None:
    """Refuse to convert where no map is known.

    Args:
        old: the model that has weights.
        new: the same but for its attention.

    Raises:
        UsageError: the models differ in more, not at all, or a layer's attention cannot become the other; with reasons.
    """
    apart = {"attn"}
    if old.model_dump(exclude=apart) != new.model_dump(exclude=apart):
        raise UsageError("only the attention can be converted: all other settings of the model stay as they are")
    pairs = [(old.attn.at(layer), new.attn.at(layer)) for layer in range(old.n_layer)]
    if all(before == after for before, after in pairs):
        raise UsageError(f"the run has --attn {full_label(new.attn)} already: there is nothing to convert")
    faults = dict.fromkeys(fault for before, after in pairs if (fault := _fault(before, after, new.shape)))
    if faults:
        raise UsageError(
            "no map of weights is known:\n" + "\n".join(faults),
            "mha, mqa, gqa, local, sparse and linear become each other, and each of them mla.",
        )


def convert_layer(
    layer: int, old: GPT2Config, new: GPT2Config, weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
) -> tuple[Weights, Notes]:
    """Return one layer's weights of attention and of the norm before it, and what the map does to them.

    Args:
        layer: its index.
        old: the model that has weights, which `check_map` lets pass.
        new: the one that they become.
        weights: the old model's.
        fresh: of the new model before any training, for what has no counterpart.

    Returns:
        Weights by their names in the model, and notes.
    """
    place, norm_place = f"h.{layer}.attn.", f"h.{layer}.ln_1."
    own, norm = _below(weights, place), _below(weights, norm_place)
    before, after, shape = old.attn.at(layer), new.attn.at(layer), new.shape
    notes: Notes = []
    if before == after:
        found = own
    elif isinstance(after, MLAConfig):
        heads = _regrouped(own, _kv_heads(before, shape), shape.n_head, shape)
        found, norm, notes = to_latent(heads, after, shape, norm, _below(fresh, place))
    else:
        G, kept = _kv_heads(before, shape), _kv_heads(after, shape)
        found = _regrouped(own, G, kept, shape)
        notes += [(said, None) for said in _sentences(before, after, G, kept, shape.block_size)]
    named = {place + name: tensor for name, tensor in found.items()}
    return named | {norm_place + name: tensor for name, tensor in norm.items()}, notes


def pooled(rows: Tensor, before: int, after: int) -> Tensor:
    """Return the rows of `after` heads for those of `before`, (before D, ...) to (after D, ...).

    Where one number divides the other, heads are means of neighbors, or copies; otherwise copies are made first, as
    many as both numbers divide.
    """
    common = math.lcm(before, after)
    heads = rows.unflatten(0, (before, -1)).repeat_interleave(common // before, 0)
    return heads.unflatten(0, (after, -1)).mean(1).flatten(0, 1)


def _regrouped(own: Mapping[str, Tensor], before: int, after: int, shape: Shape) -> Weights:
    """Return a layer's weights with `after` key/value heads in place of `before`."""
    found = dict(own)
    D = shape.head_dim
    for name in ("c_attn.weight", "c_attn.bias") if before != after else ():
        if name in found:
            q, k, v = found[name].split([shape.n_head * D, before * D, before * D])
            found[name] = torch.cat((q, pooled(k, before, after), pooled(v, before, after)))
    return found


def _kv_heads(config: AttentionConfig, shape: Shape) -> int:
    return config.kv_heads(shape) if isinstance(config, GroupedConfig) else shape.n_head


def _fault(before: AttentionConfig, after: AttentionConfig, shape: Shape) -> str:
    """Return why one attention's weights cannot become another's; empty where they can."""
    if before == after:
        return ""
    step = f"{before.kind} to {after.kind}: "
    for config in (before, after):
        if not type(config).__module__.startswith(f"{_OWN}."):
            return step + f"{config.kind} is a plug-in's, and what its weights mean only it knows"
    if isinstance(before, MLAConfig):
        return step + "keys and values of mla come from normed latents, and no projection of the input gives the same"
    if isinstance(after, MLAConfig):
        return step + fault if (fault := shape_fault(after, shape)) else ""
    known = (GroupedConfig, LinearConfig)
    return "" if isinstance(before, known) and isinstance(after, known) else step + "their weights have other layouts"


def _sentences(before: AttentionConfig, after: AttentionConfig, heads: int, kept: int, tokens: int) -> list[str]:
    """Return what becomes of the weights, and whether they now make another function."""
    changed = f"{before.kind} to {after.kind}"
    pooling = f"{heads} key and value heads become {kept}: "
    if kept < heads:
        notes = [pooling + f"each is the mean of {heads / kept:g}"]
    else:
        notes = [pooling + "repeated"] if kept > heads else [f"{changed}: the weights stay as they are"]
    if isinstance(after, LinearConfig) != isinstance(before, LinearConfig):
        notes.append(f"{changed}: the same projections with a softmax on one side and without on the other")
    elif before.pairs(tokens) != after.pairs(tokens):
        notes.append(f"{changed}: a token sees other tokens than those that the weights were learned with")
    return notes


def _below(weights: Mapping[str, Tensor], place: str) -> Weights:
    return {name.removeprefix(place): tensor for name, tensor in weights.items() if name.startswith(place)}
