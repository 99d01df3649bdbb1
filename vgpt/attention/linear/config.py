"""Settings and costs of linear attention.

Source: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 10-12 (causal form) and 16-20 (as a recurrence).
Second-order Taylor features: Arora et al. 2024 (arXiv 2402.18668). RMS norm of the output instead of the denominator:
Qin et al. 2022 (arXiv 2210.10340). Decay of the state: Sun et al. 2023 (arXiv 2307.08621).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vgpt.attention.config import AttentionConfig, CacheCost, Flops, ModelAttention, Shape
from vgpt.attention.ground import Ground
from vgpt.attention.options import POSITIONS, SWITCHES
from vgpt.attention.registry import register_attention

_STATE_BYTES = 4
"""The state is never narrower than float32: in bfloat16 it is 37 % off after 1,024 tokens."""


@register_attention(
    "linear",
    module="vgpt.attention.linear.module:LinearAttention",
    summary="linear: a feature map instead of the softmax; O(T), decodes from a state of constant size",
    help_rank=4,
)
class LinearConfig(AttentionConfig):
    """Kernel feature-map attention: o_t = phi(q_t) S_t / phi(q_t) z_t, S_t = S_(t-1) + phi(k_t) v_t^T, z likewise.

    Positions: "rope" rotates the features of the numerator and leaves the denominator as it is, which could otherwise
    become zero or negative (Su et al. 2021, arXiv 2104.09864). Of "identity" and "taylor2", whose products depend on
    q k alone, queries and keys themselves are rotated. "alibi" multiplies the state of head h by exp(-slope_h) per
    token, as retention does, and so the numerator and the denominator alike.
    """

    positions: ClassVar[tuple[str, ...]] = POSITIONS
    switches: ClassVar[tuple[str, ...]] = SWITCHES

    feature_map: Literal["elu1", "relu", "identity", "taylor2"] = "elu1"
    """map of queries and keys: elu1 is elu(x) + 1; taylor2 follows exp to second order with 1 + D + D(D+1)/2 features
    per head, 2,145 at head width 64, and a state as many times larger"""
    linear_norm: Literal["denom", "rms", "none"] = "denom"
    """what keeps outputs in scale: the denominator, an RMS norm per head without weights, or nothing but 1/sqrt(D)"""
    chunk_size: Annotated[int, Field(ge=1)] = 64
    """tokens that one matrix product takes in training and prefill; changes speed, not results"""

    def check(self, shape: Shape) -> list[str]:
        """A denominator needs features that are not negative."""
        faults = super().check(shape)
        if self.feature_map == "identity" and self.linear_norm == "denom":
            faults.append(
                "--feature-map identity does not go with --linear-norm denom: its products may be negative, so that "
                "their sum can be zero; use --linear-norm rms or none, or --feature-map elu1"
            )
        return faults

    def confounds(self, shape: Shape) -> list[str]:
        """Positions act on linear attention in another way than on a softmax."""
        if shape.pos == "alibi":
            return ["--pos alibi is a decay of the state here, not a bias of scores"]
        return ["--pos rope leaves the denominator without positions"] if self.splits(shape) else []

    def rotates_features(self, shape: Shape) -> bool:
        """Return whether features are rotated, not queries and keys: a product of elu(R q) depends on more than R."""
        return shape.pos == "rope" and self.feature_map in ("elu1", "relu")

    def splits(self, shape: Shape) -> bool:
        """Return whether numerator and denominator differ in their queries and keys, because only one is rotated."""
        return self.rotates_features(shape) and self.linear_norm == "denom"

    def feature_dim(self, shape: Shape) -> int:
        """Width m of one head's features."""
        D = shape.head_dim
        return 1 + D + D * (D + 1) // 2 if self.feature_map == "taylor2" else D

    def columns(self, shape: Shape) -> int:
        """Columns of one head's state: the values', and one for the denominator where there is one."""
        return self.v_dim(shape) + (self.linear_norm == "denom")

    def matmul_params(self, shape: Shape) -> int:
        """4 C H D for queries, keys, values and output, and the output gate."""
        return 4 * shape.n_embd * shape.n_head * shape.head_dim + self.switch_matmul_params(shape)

    def params(self, shape: Shape) -> int:
        """As multi-head attention has: weights, with bias 3 H D + C more, and the switches'."""
        own = self.matmul_params(shape) - self.switch_matmul_params(shape)
        biases = 3 * shape.n_head * shape.head_dim + shape.n_embd
        return own + shape.bias * biases + self.switch_params(shape)

    def flops(self, shape: Shape, tokens: int) -> Flops:
        """Forward FLOPs in chunks, counting the visible pairs inside each chunk.

        That is what the chunked form cannot do without. The recurrence, which `decode_flops` counts, needs fewer
        products and cannot be trained at speed.
        """
        full, rest = divmod(tokens, self.chunk_size)
        pairs = full * self.chunk_size * (self.chunk_size + 1) // 2 + rest * (rest + 1) // 2
        return Flops(2 * tokens * self.matmul_params(shape), self._attention(shape, tokens, pairs))

    def dense_flops(self, shape: Shape, tokens: int) -> Flops:
        """Forward FLOPs in chunks, counting the whole square inside each chunk: what processors are given to do."""
        full, rest = divmod(tokens, self.chunk_size)
        pairs = full * self.chunk_size**2 + rest**2
        return Flops(2 * tokens * self.matmul_params(shape), self._attention(shape, tokens, pairs))

    def decode_flops(self, shape: Shape, tokens: int) -> Flops:
        """One step of the recurrence: a product of rank one into the state and one out of it, at any length."""
        return Flops(2 * self.matmul_params(shape), self._recurrence(shape))

    def cache_cost(self, shape: Shape) -> CacheCost:
        """H m (v + 1) numbers in float32 or wider at any length; H m v without a denominator."""
        fixed = shape.n_head * self.feature_dim(shape) * self.columns(shape)
        return CacheCost(fixed=fixed, state_bytes=_STATE_BYTES)

    def same_as(self, shape: Shape) -> ModelAttention | None:
        """The same with the usual chunks, which change no result."""
        usual = type(self)().chunk_size
        return None if self.chunk_size == usual else self.model_copy(update={"chunk_size": usual})

    def ground(self, shape: Shape) -> Ground:
        """Features whose products follow exp to second order, over their sum: what comes nearest to a softmax."""
        differs = "a softmax whose exp is cut off after its second order"
        return Ground({"linear_norm": "denom", "feature_map": "taylor2"}, differs)

    def _recurrence(self, shape: Shape) -> int:
        return 4 * shape.n_head * self.feature_dim(shape) * self.columns(shape)

    def _attention(self, shape: Shape, tokens: int, pairs: int) -> int:
        """Add scores and weighted sums of the pairs inside chunks to the traffic with the state.

        The state is charged for every token, although the first chunk finds none and the last one's is not needed. A
        sequence of one chunk never makes one.
        """
        scores = shape.head_dim * (2 if self.splits(shape) else 1)
        inside = 2 * pairs * shape.n_head * (scores + self.columns(shape))
        return inside + (tokens * self._recurrence(shape) if tokens > self.chunk_size else 0)
