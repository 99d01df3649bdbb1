"""What a variant says about itself without torch: settings, who sees whom, and what it costs.

Legend for shapes everywhere in vgpt: B batch, T tokens, S keys, C width (n_embd), H query heads, G key/value heads,
D head width.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from vgpt.attention.ground import Ground
from vgpt.attention.options import OPTIONS, POSITIONS, SWITCHES, Option, Sizes, chosen, with_switches
from vgpt.schema import Section


@dataclass(frozen=True)
class _Backbone:
    """The backbone without switches.

    Attributes:
        n_embd: width C of the residual stream.
        n_head: query heads H; the head width is n_embd / n_head.
        block_size: longest sequence that the model trains on.
        bias: whether linear layers have biases.
        pos: position encoding, one of `vgpt.attention.options.POSITIONS`.
        rope_base: base of the rotary frequencies.
        flash: whether fused kernels may be used; False asks for the naive formula.
    """

    n_embd: int
    n_head: int
    block_size: int
    bias: bool = True
    pos: str = "learned"
    rope_base: float = 10_000.0
    flash: bool = True

    @property
    def head_dim(self) -> int:
        """Width D of one head."""
        return self.n_embd // self.n_head


class Shape(with_switches(_Backbone)):
    """The backbone that an attention layer is built for; the same for every variant of a comparison.

    Beside the fields of a plain backbone it has one for each switch of `vgpt.attention.options`, under its name and off
    by default: `Shape(64, 4, 32, qk_norm=True)`.
    """


@dataclass(frozen=True)
class CacheCost:
    """Numbers that one layer keeps per sequence while decoding.

    `per_token` numbers for each of the last `span` tokens (None: all of them), plus `fixed` ones at any length.
    `state_bytes` is the least size of one fixed number, where the variant demands precision (None: the cache's).
    `read_span` is the most tokens whose numbers one decoding step reads (None: all that are kept).
    """

    per_token: int = 0
    span: int | None = None
    fixed: int = 0
    state_bytes: int | None = None
    read_span: int | None = None

    def numbers(self, tokens: int) -> int:
        """Count of stored numbers after `tokens` tokens."""
        return self.fixed + self.per_token * (tokens if self.span is None else min(tokens, self.span))

    def nbytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes after `tokens` tokens when a number of the cache takes `element_bytes`."""
        kept = self.numbers(tokens) - self.fixed
        return kept * element_bytes + self.fixed * max(self.state_bytes or 0, element_bytes)

    def read_nbytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes that one decoding step reads after `tokens` tokens."""
        return self.nbytes(tokens if self.read_span is None else min(tokens, self.read_span), element_bytes)


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one layer on one sequence; a multiply-add counts 2.

    `projections` are products with weights, `attention` is scores and weighted values.
    """

    projections: int
    attention: int

    @property
    def total(self) -> int:
        """Both parts together."""
        return self.projections + self.attention


class ModelAttention(Section):
    """The attention of all layers of a model, which `--attn` names: one variant for all, or a pattern of variants.

    One variant is an `AttentionConfig`, which also says what a layer costs. Costs of a model are asked of the settings
    of each layer, `at(layer)`.
    """

    kind: ClassVar[str] = ""
    """name on the command line; set by `register_attention`"""
    summary: ClassVar[str] = ""
    """one line for lists of variants"""
    help_rank: ClassVar[int] = 0
    """place among vgpt's own variants in help and tables; set by `register_attention`"""

    @abstractmethod
    def at(self, layer: int) -> "AttentionConfig":
        """Return the settings of one layer."""

    @abstractmethod
    def check(self, shape: Shape) -> list[str]:
        """Return what is wrong with these settings on this backbone: sentences that name the flags; empty when fine."""

    @abstractmethod
    def confounds(self, shape: Shape) -> list[str]:
        """Return what besides attention itself sets this variant apart on this backbone, for the fairness audit."""

    def defaults_in(self, shape: Shape) -> dict[str, Any]:
        """Return what settings that are none come to on this backbone: spelled out, they make the same model."""
        return {}

    def cache_knob(self) -> str | None:
        """Return the name of the integer setting that the cache grows with, for matched budgets; None without one."""
        return None

    def same_as(self, shape: Shape) -> "ModelAttention | None":
        """Return other settings, or another variant, that make the same function of the same weights; None for none.

        `gqa` with as many key/value heads as query heads is `mha`: a comparison needs no runs of both.
        """
        return None

    def ground(self, shape: Shape) -> Ground | None:
        """Return the settings at which this variant is mha, or nearest to it; None where it comes nowhere near.

        A path of single steps from one variant to another leads over them. Without, the two are one step apart.
        """
        return None

    @model_serializer(mode="wrap")
    def _tagged(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


class AttentionConfig(ModelAttention):
    """Settings of one variant, with its analytic costs.

    A variant subclasses this, adds its fields, overrides what differs, and registers with
    `vgpt.attention.registry.register_attention`. Everything here is per layer and free of torch.
    """

    positions: ClassVar[tuple[str, ...]] = tuple(o.name for o in OPTIONS if o.acts_on in ("input", "nothing"))
    """the choices of --pos that the module honors; by default those that are no matter of attention"""
    switches: ClassVar[tuple[str, ...]] = ()
    """switches that the module honors; both lists but for what the table of options refuses for this variant"""
    maps: ClassVar[int] = 1
    """attention maps per head, each with queries and keys of its own; all weigh the same values"""
    unsupported: ClassVar[dict[str, str]] = {}
    """reason by switch or position that is not honored"""

    @classmethod
    def refusal(cls, option: Option) -> str | None:
        """Return None where the module honors a switch or position, otherwise why not; empty without a reason.

        The nearest class decides that lists what it honors, or that the table of options names.
        """
        listed = "positions" if option.position else "switches"
        for base in cls.__mro__:
            own = vars(base)
            if own.get("kind") in option.refused:
                return option.refused[own["kind"]]
            if listed in own:
                return None if option.name in own[listed] else cls.unsupported.get(option.name, "")
        return ""

    def check(self, shape: Shape) -> list[str]:
        """Return what is wrong with these settings on this backbone: sentences that name the flags; empty when fine.

        A switch or position that the module does not honor is a fault: ignored, it would make an unfair run.
        """
        reasons = [(option.flag, self.refusal(option)) for option, _ in chosen(shape)]
        if shape.pos not in POSITIONS:
            reasons.append((f"--pos {shape.pos}", ""))
        return [
            f"{flag} does not apply to --attn {self.kind}" + (f": {why}" if why else "")
            for flag, why in reasons
            if why is not None
        ]

    def at(self, layer: int) -> "AttentionConfig":
        """Return the settings of one layer: these, whichever it is."""
        return self

    def effective_positions(self, shape: Shape) -> str:
        """Return what tells a layer where its tokens are: a condition that a fair comparison holds equal.

        By default what `--pos` says. A variant that adds positions of its own says so, as in "learned+rope:16": a
        comparison with one that has none would measure the positions.
        """
        return shape.pos

    def confounds(self, shape: Shape) -> list[str]:
        """Return what besides attention itself sets this variant apart on this backbone, for the fairness audit."""
        return []

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """Return whether query position `q` may see key position `k` in one head of one layer.

        The one definition of who sees whom: masks, pair counts and pictures follow from it. Takes integers or
        broadcastable integer arrays or tensors (all but `layer`), so it also serves as a FlexAttention mask.
        """
        return k <= q

    def pairs(self, tokens: int) -> int:
        """Count the visible (query, key) pairs of one head on a sequence of `tokens`."""
        return tokens * (tokens + 1) // 2

    def dense_pairs(self, tokens: int) -> int:
        """Count the pairs by the common convention that ignores causality: the full square."""
        return tokens * tokens

    def qk_dim(self, shape: Shape) -> int:
        """Width of the queries and keys of one map of one head, on which switches act."""
        return shape.head_dim

    def v_dim(self, shape: Shape) -> int:
        """Width of one head's values."""
        return shape.head_dim

    def gate_dim(self, shape: Shape) -> int:
        """Width of one head's output, on which switches act."""
        return self.v_dim(shape)

    def pair_dim(self, shape: Shape) -> int:
        """Multiply-adds of one head for one visible pair: the score and the weighted value of each of its maps."""
        return self.maps * (self.qk_dim(shape) + self.v_dim(shape))

    def matmul_params(self, shape: Shape) -> int:
        """Count the weights that take part in matrix products (no biases, no norms)."""
        raise NotImplementedError

    def params(self, shape: Shape) -> int:
        """Count all parameters of one layer."""
        raise NotImplementedError

    def flops(self, shape: Shape, tokens: int) -> Flops:
        """Forward FLOPs of one layer on one sequence of `tokens`, counting visible pairs only."""
        return self._flops(shape, tokens, self.pairs(tokens))

    def dense_flops(self, shape: Shape, tokens: int) -> Flops:
        """Forward FLOPs by the PaLM convention (arXiv 2204.02311, appendix B): causality not subtracted."""
        return self._flops(shape, tokens, self.dense_pairs(tokens))

    def decode_flops(self, shape: Shape, tokens: int) -> Flops:
        """Forward FLOPs of one new token when `tokens` are visible to it or before it, itself included."""
        pairs = self.pairs(tokens) - self.pairs(tokens - 1)
        attention = 2 * pairs * shape.n_head * self.pair_dim(shape)
        return Flops(2 * self.matmul_params(shape), attention)

    def cache_cost(self, shape: Shape) -> CacheCost:
        """What one layer keeps per sequence while decoding."""
        raise NotImplementedError

    def switch_matmul_params(self, shape: Shape) -> int:
        """Count the weights that the switches bring into matrix products."""
        sizes = self._sizes(shape)
        return sum(option.matmul_params(sizes, value) for option, value in chosen(shape))

    def switch_params(self, shape: Shape) -> int:
        """Count all parameters that the switches bring."""
        sizes = self._sizes(shape)
        return sum(option.params(sizes, value) for option, value in chosen(shape))

    def _sizes(self, shape: Shape) -> Sizes:
        return Sizes(shape.n_embd, shape.n_head, self.qk_dim(shape), self.gate_dim(shape), shape.bias)

    def _flops(self, shape: Shape, tokens: int, pairs: int) -> Flops:
        attention = 2 * pairs * shape.n_head * self.pair_dim(shape)
        return Flops(2 * tokens * self.matmul_params(shape), attention)


class SoftmaxConfig(AttentionConfig):
    """Base of the variants with a softmax over visible keys: all switches and positions apply."""

    positions: ClassVar[tuple[str, ...]] = POSITIONS
    switches: ClassVar[tuple[str, ...]] = SWITCHES


def positions_of(layers: Sequence[AttentionConfig], shape: Shape) -> str:
    """Return the effective positions of a model's layers: `rope`, or `learned (layers 0-4), ...` where they differ."""
    found: dict[str, list[int]] = {}
    for index, config in enumerate(layers):
        found.setdefault(config.effective_positions(shape), []).append(index)
    if len(found) <= 1:
        return next(iter(found), shape.pos)
    return ", ".join(f"{name} (layers {_ranges(indices)})" for name, indices in found.items())


def _ranges(indices: Sequence[int]) -> str:
    """Return rising numbers in short: `0-4, 6`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
