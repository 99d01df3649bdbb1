"""Settings and costs of local attention.

Sources: sliding window, Beltagy et al. 2020 (arXiv 2004.05150) section 3.1; causal with a rolling cache, Jiang et al.
2023 (arXiv 2310.06825) section 2.
"""

from typing import Annotated, Any

from pydantic import Field

from vgpt.attention.config import CacheCost, Shape
from vgpt.attention.grouped.config import GroupedConfig
from vgpt.attention.registry import register_attention


@register_attention(
    "local",
    module="vgpt.attention.local.module:LocalAttention",
    summary="sliding window: every query sees the latest tokens only",
)
class LocalConfig(GroupedConfig):
    """Multi-head attention over a sliding window; a window of --block-size and more is plain multi-head attention."""

    window_size: Annotated[int, Field(ge=1)] = 256
    """tokens each query may see, itself included"""

    def kv_heads(self, shape: Shape) -> int:
        """As many as query heads."""
        return shape.n_head

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """A key is seen by its own token and the `window_size` - 1 after it."""
        return (k <= q) & (q - k < self.window_size)

    def pairs(self, tokens: int) -> int:
        """W (W + 1) / 2 pairs of the first W queries, W of each later one."""
        full = min(tokens, self.window_size)
        return full * (full + 1) // 2 + (tokens - full) * full

    def dense_pairs(self, tokens: int) -> int:
        """A whole window for every query."""
        return tokens * min(tokens, self.window_size)

    def cache_cost(self, shape: Shape) -> CacheCost:
        """One key and one value per head and token of the window."""
        return CacheCost(per_token=2 * shape.n_head * shape.head_dim, span=self.window_size)
