"""Settings and costs of multi-head latent attention.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1, equations 9-19, and table 9 for the size of the cache. Letters:
c = kv_lora_rank, r = q_lora_rank, n = qk_nope_head_dim, e = qk_rope_head_dim, v = v_head_dim.
"""

from typing import Annotated, Any

from pydantic import Field

from vgpt.attention.config import CacheCost, Flops, ModelAttention, Shape, SoftmaxConfig
from vgpt.attention.ground import Ground
from vgpt.attention.registry import register_attention


@register_attention(
    "mla",
    module="vgpt.attention.latent.module:LatentAttention",
    summary="multi-head latent: keys and values of all heads come from one cached low-rank latent",
    help_rank=5,
)
class MLAConfig(SoftmaxConfig):
    """Multi-head latent attention of DeepSeek-V2, with its decoupled rotary part.

    The rotary part exists where positions may act on queries and keys: with `--pos rope`, and with `--pos learned`,
    where it stands beside the learned positions as in the original. With `--pos none` and `--pos alibi` e is 0.
    """

    kv_lora_rank: Annotated[int, Field(ge=1)] = 192
    """width of the latent that is cached per token in place of keys and values"""
    q_lora_rank: Annotated[int | None, Field(ge=1)] = None
    """width of a latent for the queries; none = project them directly"""
    qk_nope_head_dim: Annotated[int | None, Field(ge=1)] = None
    """width per head of queries and keys without positions; none = n_embd / n_head"""
    qk_rope_head_dim: Annotated[int | None, Field(ge=0)] = None
    """width per head of the rotary part of queries and keys, one key for all heads; even; none = n_embd / n_head / 2"""
    v_head_dim: Annotated[int | None, Field(ge=1)] = None
    """width per head of the values; none = n_embd / n_head"""

    def nope_dim(self, shape: Shape) -> int:
        """Width n of the part of queries and keys that carries content only."""
        return self.qk_nope_head_dim or shape.head_dim

    def rope_dim(self, shape: Shape) -> int:
        """Width e of the rotary part; 0 where the backbone's position encoding leaves no place for one."""
        if shape.pos not in ("learned", "rope"):
            return 0
        if self.qk_rope_head_dim is not None:
            return self.qk_rope_head_dim
        return 2 * -(-shape.head_dim // 4)  # half, rounded up to an even number

    def qk_dim(self, shape: Shape) -> int:
        """Both parts: n + e."""
        return self.nope_dim(shape) + self.rope_dim(shape)

    def v_dim(self, shape: Shape) -> int:
        """Width v of one head's values."""
        return self.v_head_dim or shape.head_dim

    def defaults_in(self, shape: Shape) -> dict[str, Any]:
        """The widths of a head are the backbone's."""
        plain = MLAConfig()
        widths = {"qk_nope_head_dim": plain.nope_dim(shape), "v_head_dim": plain.v_dim(shape)}
        return widths | ({"qk_rope_head_dim": rope} if (rope := plain.rope_dim(shape)) else {})

    def check(self, shape: Shape) -> list[str]:
        """The rotary part must consist of pairs, and must exist exactly where the positions call for it."""
        faults, rope = super().check(shape), self.qk_rope_head_dim
        if rope is not None and rope % 2:
            faults.append(f"--qk-rope-head-dim {rope} must be even: features are rotated in pairs")
        if rope and shape.pos in ("none", "alibi"):
            faults.append(
                f"--qk-rope-head-dim {rope} has no place with --pos {shape.pos}, which leaves MLA without a rotary "
                "part; leave it out, or use --pos rope"
            )
        if rope == 0 and shape.pos == "rope":
            faults.append("--qk-rope-head-dim 0 leaves --pos rope nothing to rotate; use an even width, or --pos none")
        return faults

    def effective_positions(self, shape: Shape) -> str:
        """Beside learned positions, the rotary part is a second source of positions that other variants lack."""
        rope = self.rope_dim(shape)
        return f"learned+rope:{rope}" if shape.pos == "learned" and rope else shape.pos

    def confounds(self, shape: Shape) -> list[str]:
        """Rotary positions act on a part of each head here (DeepSeek-V2, equations 14-17), elsewhere on all of it."""
        rope = self.rope_dim(shape)
        if shape.pos == "alibi" or not rope:
            return []
        beside = " beside the learned ones" if shape.pos == "learned" else ""
        return [f"rotary positions in {rope} of {self.qk_dim(shape)} features per head{beside} (--qk-rope-head-dim)"]

    def matmul_params(self, shape: Shape) -> int:
        """Queries, latent and shared rotary key, keys and values from the latent, output; and the output gate."""
        H, C = shape.n_head, shape.n_embd
        queries = H * self.qk_dim(shape)
        down_up = C * queries if self.q_lora_rank is None else self.q_lora_rank * (C + queries)
        down = C * self._row(shape)
        up = self.kv_lora_rank * H * (self.nope_dim(shape) + self.v_dim(shape))
        out = C * H * self.v_dim(shape)
        return down_up + down + up + out + self.switch_matmul_params(shape)

    def params(self, shape: Shape) -> int:
        """Weights, the norms of the latents, and biases where DeepSeek has them: r, c + e and C; and the switches'."""
        r = self.q_lora_rank or 0
        own = self.matmul_params(shape) - self.switch_matmul_params(shape)
        biases = r + self._row(shape) + shape.n_embd
        return own + r + self.kv_lora_rank + shape.bias * biases + self.switch_params(shape)

    def decode_flops(self, shape: Shape, tokens: int) -> Flops:
        """One new token in the absorbed form, as decoding computes it.

        Per head n c to carry a query into the latent's space, c + e and c per visible token, c v to leave it again:
        2 H (n c + T (c + e) + T c + c v). The two products with weights, n c and c v, have as many factors as the
        projection from latent to keys and values that they replace, so `projections` is what it is in training.
        """
        attention = 2 * shape.n_head * tokens * (self._row(shape) + self.kv_lora_rank)
        return Flops(2 * self.matmul_params(shape), attention)

    def absorbing_pays(self, shape: Shape, new: int, total: int) -> bool:
        """Return whether the absorbed form takes fewer multiplications for the last `new` of `total` tokens.

        Expanding makes keys and values of all tokens once and is then cheaper per pair of tokens.
        """
        n, v, c = self.nope_dim(shape), self.v_dim(shape), self.kv_lora_rank
        expanded = total * c * (n + v) + new * total * (self.qk_dim(shape) + v)
        absorbed = new * c * (n + v) + new * total * (self._row(shape) + c)
        return absorbed < expanded

    def cache_cost(self, shape: Shape) -> CacheCost:
        """One latent and one rotary key, shared by all heads, per token."""
        return CacheCost(per_token=self._row(shape))

    def cache_knob(self) -> str | None:
        """The latent decides the size of the cache."""
        return "kv_lora_rank"

    def same_as(self, shape: Shape) -> ModelAttention | None:
        """The same without a word on the rotary part, where the positions leave no place for one."""
        if shape.pos in ("learned", "rope") or self.qk_rope_head_dim is None:
            return None
        return self.model_copy(update={"qk_rope_head_dim": None})

    def ground(self, shape: Shape) -> Ground:
        """A latent as wide as the residual stream, which limits no rank, and heads as wide as those of mha.

        The rotary part goes where learned positions stand beside it. Under `--pos rope` it is the only one, and stays.
        """
        settings: dict[str, Any] = {"kv_lora_rank": shape.n_embd}
        differs = "keys and values of all heads from one normed latent of full rank; no biases of queries"
        if shape.pos == "learned":
            settings["qk_rope_head_dim"] = 0
        if shape.pos == "rope":
            rope, width = self.rope_dim(shape), self.qk_dim(shape)
            differs += f"; rotary positions in {rope} of {width} features per head, the key's shared by all heads"
        others = {"q_lora_rank": None, "qk_nope_head_dim": None, "v_head_dim": None}
        return Ground({**settings, **others}, differs)

    def _row(self, shape: Shape) -> int:
        return self.kv_lora_rank + self.rope_dim(shape)
