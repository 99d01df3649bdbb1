"""What a variant says about itself without torch: settings, who sees whom, and what it costs.

Legend for shapes everywhere in vgpt: B batch, T tokens, S keys, C width (n_embd), H query heads, G key/value heads,
D head width.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from vgpt.schema import Section


@dataclass(frozen=True)
class Shape:
    """The backbone that an attention layer is built for; the same for every variant of a comparison.

    Attributes:
        n_embd: width C of the residual stream.
        n_head: query heads H; the head width is n_embd / n_head.
        block_size: longest sequence that the model trains on.
        bias: whether linear layers have biases.
        pos: position encoding: "learned" and "none" leave attention alone, "rope" rotates queries and keys, "alibi"
            lowers scores by distance.
        rope_base: base of the rotary frequencies.
        flash: whether fused kernels may be used; False asks for the naive formula.
        qk_norm: RMS norm on the queries and keys of each head, before any rotation.
        out_gate: sigmoid gate on the output, computed from the input: "none", "head" (one per head), "elem" (one per
            feature of each head).
        sinks: a learned logit per head in the denominator of the softmax.
    """

    n_embd: int
    n_head: int
    block_size: int
    bias: bool = True
    pos: str = "learned"
    rope_base: float = 10_000.0
    flash: bool = True
    qk_norm: bool = False
    out_gate: str = "none"
    sinks: bool = False

    @property
    def head_dim(self) -> int:
        """Width D of one head."""
        return self.n_embd // self.n_head


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

    @model_serializer(mode="wrap")
    def _tagged(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


class AttentionConfig(ModelAttention):
    """Settings of one variant, with its analytic costs.

    A variant subclasses this, adds its fields, overrides what differs, and registers with
    `vgpt.attention.registry.register_attention`. Everything here is per layer and free of torch.
    """

    positions: ClassVar[tuple[str, ...]] = ("learned", "none")
    """the choices of --pos that the module honors"""
    switches: ClassVar[tuple[str, ...]] = ()
    """of "qk_norm", "out_gate" and "sinks", those that the module honors"""
    maps: ClassVar[int] = 1
    """attention maps per head, each with queries and keys of its own; all weigh the same values"""
    unsupported: ClassVar[dict[str, str]] = {}
    """reason by switch or position that is not honored"""

    def check(self, shape: Shape) -> list[str]:
        """Return what is wrong with these settings on this backbone: sentences that name the flags; empty when fine.

        A switch or position that the module does not honor is a fault: ignored, it would make an unfair run.
        """
        asked = {"qk_norm": shape.qk_norm, "out_gate": shape.out_gate != "none", "sinks": shape.sinks}
        flags = [
            (name, f"--{name.replace('_', '-')}") for name, on in asked.items() if on and name not in self.switches
        ]
        if shape.pos not in self.positions:
            flags.append((shape.pos, f"--pos {shape.pos}"))
        reasons = [(flag, self.unsupported.get(name)) for name, flag in flags]
        return [f"{flag} does not apply to --attn {self.kind}" + (f": {why}" if why else "") for flag, why in reasons]

    def at(self, layer: int) -> "AttentionConfig":
        """Return the settings of one layer: these, whichever it is."""
        return self

    def effective_positions(self, shape: Shape) -> str:
        """Return what tells a layer where its tokens are: a condition that a fair comparison holds equal.

        By default what `--pos` says: "learned", "rope", "alibi" or "none". A variant that adds positions of its own
        says so, as in "learned+rope:16": a comparison with one that has none would measure the positions.
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
        """Width of the queries and keys of one map of one head; what `--qk-norm` norms."""
        return shape.head_dim

    def v_dim(self, shape: Shape) -> int:
        """Width of one head's values."""
        return shape.head_dim

    def gate_dim(self, shape: Shape) -> int:
        """Width of one head's output, which `--out-gate elem` gates feature by feature."""
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
        """Count the weights that the switches bring into matrix products: those of the output gate."""
        widths = {"none": 0, "head": shape.n_head, "elem": shape.n_head * self.gate_dim(shape)}
        return shape.n_embd * widths[shape.out_gate]

    def switch_params(self, shape: Shape) -> int:
        """Count all parameters that the switches bring: norms of queries and keys, gate, sinks."""
        gate = self.switch_matmul_params(shape)
        norms = 2 * self.qk_dim(shape) if shape.qk_norm else 0
        return norms + gate + (gate // shape.n_embd if shape.bias else 0) + (shape.n_head if shape.sinks else 0)

    def _flops(self, shape: Shape, tokens: int, pairs: int) -> Flops:
        attention = 2 * pairs * shape.n_head * self.pair_dim(shape)
        return Flops(2 * tokens * self.matmul_params(shape), attention)


class SoftmaxConfig(AttentionConfig):
    """Base of the variants with a softmax over visible keys: all switches and positions apply."""

    positions: ClassVar[tuple[str, ...]] = ("learned", "none", "rope", "alibi")
    switches: ClassVar[tuple[str, ...]] = ("qk_norm", "out_gate", "sinks")


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
