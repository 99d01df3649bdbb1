"""Matched budgets: what must change in a model for its parameters, its FLOPs or its cache to equal another variant's.

Parameters and FLOPs are matched by the width of the MLP, the same in all layers, as Shazeer 2019 (arXiv 1911.02150,
section 4) does for multi-query attention; the cache is matched by the variant's own setting (`cache_knob`). What is
counted is attention and MLP of all layers: embeddings, norms and the output layer are the same on both sides. The two
ways of matching cannot both hold, so both residuals are always told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from pydantic import ValidationError

from vgpt.attention.config import ModelAttention, Shape
from vgpt.attention.grammar import full_label, resolve_attention
from vgpt.errors import SettingsError
from vgpt.formatting import flag_of

MULTIPLE = 8
"""What matched widths are multiples of, unless asked otherwise."""
UNMATCHED: dict[str, Any] = {"match": "none", "match_to": None, "match_multiple": MULTIPLE}
"""The settings of a model in which nothing is matched."""
MOST_RESIDUAL = 0.005
"""A matched width whose budget is farther off than this share is refused."""
MOST_CACHE_RESIDUAL = 0.10
"""The same for caches, whose settings come in large steps."""
WIDEST = 16
"""A matched MLP is at least as wide as the model, and at most so many times."""

_CACHE_BYTES = 2  # of a number in bfloat16
_MOST_KNOB = 2**20
_MOST_STEPS = 4096


@dataclass(frozen=True)
class Backbone:
    """What a budget depends on besides the attention.

    Attributes:
        shape: the backbone as attention layers see it; budgets of FLOPs and cache are those at its block_size.
        n_layer: number of layers.
        width: hidden width of the MLP before anything is matched.
    """

    shape: Shape
    n_layer: int
    width: int

    def params(self, attn: ModelAttention, width: int) -> int:
        """Parameters of attention and MLP of all layers."""
        attention = sum(attn.at(layer).params(self.shape) for layer in range(self.n_layer))
        return attention + self.n_layer * self.shape.bias * self.shape.n_embd + self.params_per_width * width

    def flops(self, attn: ModelAttention, width: int) -> int:
        """Forward FLOPs of attention and MLP of all layers on one sequence, exact pairs."""
        tokens = self.shape.block_size
        attention = sum(attn.at(layer).flops(self.shape, tokens).total for layer in range(self.n_layer))
        return attention + self.flops_per_width * width

    def cache_bytes(self, attn: ModelAttention) -> int:
        """Bytes of the caches of all layers at block_size tokens, in bfloat16."""
        tokens = self.shape.block_size
        return sum(attn.at(layer).cache_cost(self.shape).nbytes(tokens, _CACHE_BYTES) for layer in range(self.n_layer))

    @property
    def params_per_width(self) -> int:
        """Parameters that one more hidden unit in every layer brings: 2 C, and 1 with bias."""
        return self.n_layer * (2 * self.shape.n_embd + self.shape.bias)

    @property
    def flops_per_width(self) -> int:
        """Forward FLOPs per sequence that one more hidden unit in every layer brings: 4 C per token."""
        return self.n_layer * 4 * self.shape.n_embd * self.shape.block_size


@dataclass(frozen=True)
class Match:
    """What is matched, and to what: `rule` is "params", "flops" or "cache"."""

    rule: str
    to: str
    multiple: int

    def __str__(self) -> str:
        steps = "" if self.multiple == MULTIPLE else f" in multiples of {self.multiple}"
        return f"{self.rule} to {self.to}{steps}"


@dataclass(frozen=True)
class Budget:
    """A variant's budget relative to the reference's, minus 1: 0.01 is 1 % more.

    Attributes:
        reference: the reference, spelled out.
        width: hidden width of the MLP.
        raw_width: the same before matching, and the reference's.
        params, flops, cache: with `width`.
        raw_params, raw_flops: with `raw_width`.
    """

    reference: str
    width: int
    raw_width: int
    params: float
    flops: float
    cache: float
    raw_params: float
    raw_flops: float

    def __str__(self) -> str:
        return (
            f"MLP width {self.width} instead of {self.raw_width}; attention and MLP together against {self.reference}: "
            f"parameters {self.params:+.3%}, FLOPs {self.flops:+.3%}, cache {self.cache:+.1%}"
        )


def budget(attn: ModelAttention, reference: ModelAttention, backbone: Backbone, width: int) -> Budget:
    """Return a variant's budget with an MLP of `width` relative to the reference's with the backbone's own width."""
    raw = backbone.width
    params, flops, cache = (
        backbone.params(reference, raw),
        backbone.flops(reference, raw),
        backbone.cache_bytes(reference),
    )
    return Budget(
        reference=full_label(reference),
        width=width,
        raw_width=raw,
        params=backbone.params(attn, width) / params - 1,
        flops=backbone.flops(attn, width) / flops - 1,
        cache=backbone.cache_bytes(attn) / cache - 1,
        raw_params=backbone.params(attn, raw) / params - 1,
        raw_flops=backbone.flops(attn, raw) / flops - 1,
    )


def matched_width(match: Match, attn: ModelAttention, reference: ModelAttention, backbone: Backbone) -> int:
    """Return the MLP width with which a variant has the reference's parameters or FLOPs.

    Raises:
        ValueError: it would be too narrow or too wide, or no multiple comes near enough; with the numbers.
    """
    size, per_width = {
        "params": (backbone.params, backbone.params_per_width),
        "flops": (backbone.flops, backbone.flops_per_width),
    }[match.rule]
    target = size(reference, backbone.width)
    width = nearest_width(backbone.width, target - size(attn, backbone.width), per_width, match.multiple)
    name, narrowest, widest = full_label(attn), backbone.shape.n_embd, WIDEST * backbone.shape.n_embd
    if width != backbone.width and not narrowest <= width <= widest:
        raise ValueError(
            f"--match {match.rule} --match-to {match.to}: {name} would need an MLP of width {width}; "
            f"possible: {narrowest} to {widest} (--n-embd to {WIDEST} times it)"
        )
    residual = size(attn, width) / target - 1
    if abs(residual) > MOST_RESIDUAL:
        raise ValueError(
            f"--match {match.rule} --match-to {match.to}: the nearest MLP width for {name}, {width}, misses by "
            f"{residual:+.2%}, more than {MOST_RESIDUAL:.1%}; use a smaller --match-multiple than {match.multiple}"
        )
    return width


def nearest_width(width: int, deficit: int, per_width: int, multiple: int) -> int:
    """Return the multiple nearest to the width that makes up for a deficit; `width` itself where there is none.

    Args:
        width: the width that leaves the deficit.
        deficit: what the attention layers of the reference have more, all together.
        per_width: what one more hidden unit brings, in all MLPs together.
        multiple: what the new width is a multiple of; of two that are equally near, the narrower one.
    """
    if deficit == 0:
        return width
    exact = width + Fraction(deficit, per_width)
    return multiple * ceil(exact / multiple - Fraction(1, 2))


def match_cache(match: Match, attn: ModelAttention, reference: ModelAttention, backbone: Backbone) -> ModelAttention:
    """Return the variant with its own setting chosen so that its cache has the reference's size at block_size tokens.

    Raises:
        ValueError: the variant has no such setting, or no value of it comes near; with the numbers.
    """
    target = backbone.cache_bytes(reference)
    if backbone.cache_bytes(attn) == target:
        return attn
    knob = attn.cache_knob()
    flags = f"--match cache --match-to {match.to}"
    if knob is None:
        raise ValueError(f"{flags}: no one setting of {full_label(attn)} sizes its cache")
    near = [
        found for value in _candidates(attn, knob, target, backbone) if (found := _with(attn, knob, value, backbone))
    ]
    if not near:
        raise ValueError(f"{flags}: no value of {flag_of(knob)} fits this model")
    best = min(near, key=lambda found: abs(backbone.cache_bytes(found) - target))
    residual = backbone.cache_bytes(best) / target - 1
    if abs(residual) > MOST_CACHE_RESIDUAL:
        raise ValueError(
            f"{flags}: the nearest cache, that of {full_label(best)}, misses by {residual:+.1%}, "
            f"more than {MOST_CACHE_RESIDUAL:.0%}"
        )
    return best


def resolve_reference(text: str, shape: Shape) -> ModelAttention:
    """Return the settings of the variant that budgets are matched to.

    Raises:
        ValueError: it is no variant, or does not fit the backbone.
    """
    try:
        reference = resolve_attention(text)
    except SettingsError as error:
        raise ValueError(f"--match-to: {error.message}") from error
    except ValidationError as error:
        faults = [f"{fault['loc'][0]} = {fault['input']!r}: {fault['msg']}" for fault in error.errors()]
        raise ValueError(f"--match-to {text}: " + "; ".join(faults)) from error
    if faults := reference.check(shape):
        raise ValueError(f"--match-to {text}: " + "; ".join(faults))
    return reference


def _candidates(attn: ModelAttention, knob: str, target: int, backbone: Backbone) -> Sequence[int]:
    """Return the values to try: outwards from the smallest whose cache is as large as the target.

    Caches grow with their knob, so the nearest fitting values on both sides are the best ones.
    """
    low, high = 0, _MOST_KNOB  # too small, large enough or the end
    while high - low > 1:
        middle = (low + high) // 2
        if backbone.cache_bytes(attn.model_copy(update={knob: middle})) < target:
            low = middle
        else:
            high = middle
    above = next((v for v in range(high, high + _MOST_STEPS) if _with(attn, knob, v, backbone)), 0)
    below = next((v for v in range(high - 1, max(0, high - _MOST_STEPS), -1) if _with(attn, knob, v, backbone)), 0)
    return [value for value in (below, above) if value]


def _with(attn: ModelAttention, knob: str, value: int, backbone: Backbone) -> ModelAttention | None:
    """Return the variant with another value of its knob; None where it does not fit."""
    table = {**attn.model_dump(), knob: value}
    try:
        found = resolve_attention(table)
    except ValidationError:
        return None
    return None if found.check(backbone.shape) else found
