"""Settings and costs of sliding-window attention."""

from typing import Annotated, Any

from pydantic import Field

from vgpt.attention.config import CacheCost, ModelAttention, Shape
from vgpt.attention.ground import Ground
from vgpt.attention.grouped.config import GroupedConfig, MHAConfig
from vgpt.attention.registry import register_attention


@register_attention(
    "local",
    module="vgpt.attention.local.module:LocalAttention",
    summary="sliding window: a token sees the last tokens only; the cache is a ring of that size",
    help_rank=2,
)
class LocalConfig(GroupedConfig):
    """Causal sliding-window attention with the weights of multi-head attention.

    Source: Beltagy et al. 2020, Longformer (arXiv 2004.05150), section 3.1, with the window on one side only, as in
    Mistral 7B (Jiang et al. 2023, arXiv 2310.06825, section 2).
    """

    window_size: Annotated[int, Field(ge=1)] = 256
    """tokens that each token sees, itself included"""

    def kv_heads(self, shape: Shape) -> int:
        """As many as query heads: the weights are those of multi-head attention."""
        return shape.n_head

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """The query's own token and the `window_size` - 1 before it."""
        return (k <= q) & (q - k < self.window_size)

    def pairs(self, tokens: int) -> int:
        """W (W + 1) / 2 + (T - W) W."""
        W = min(self.window_size, tokens)
        return W * (W + 1) // 2 + (tokens - W) * W

    def dense_pairs(self, tokens: int) -> int:
        """Every query with a whole window."""
        return tokens * min(self.window_size, tokens)

    def cache_cost(self, shape: Shape) -> CacheCost:
        """A key and a value of each of the last `window_size` tokens."""
        return CacheCost(per_token=2 * shape.n_head * shape.head_dim, span=self.window_size)

    def cache_knob(self) -> str | None:
        """The window decides the size of the cache."""
        return "window_size"

    def same_as(self, shape: Shape) -> ModelAttention | None:
        """Multi-head attention, where the window holds the whole context."""
        return MHAConfig() if self.window_size >= shape.block_size else None

    def ground(self, shape: Shape) -> Ground:
        """A window over the whole context."""
        return Ground({"window_size": shape.block_size})
