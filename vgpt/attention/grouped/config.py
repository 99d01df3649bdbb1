"""Settings and costs of attention with shared key/value heads.

Sources: multi-head, Vaswani et al. 2017 (arXiv 1706.03762) section 3.2.2; multi-query, Shazeer 2019 (arXiv 1911.02150);
grouped-query, Ainslie et al. 2023 (arXiv 2305.13245).
"""

from typing import Annotated

from pydantic import Field

from vgpt.attention.config import CacheCost, ModelAttention, Shape, SoftmaxConfig
from vgpt.attention.ground import Ground
from vgpt.attention.registry import register_attention

_MODULE = "vgpt.attention.grouped.module:GroupedAttention"


class GroupedConfig(SoftmaxConfig):
    """Queries in H heads, keys and values in G heads; each key/value head serves H/G neighboring query heads."""

    def kv_heads(self, shape: Shape) -> int:
        """Return G, the number of key/value heads."""
        raise NotImplementedError

    def matmul_params(self, shape: Shape) -> int:
        """2 C H D for queries and output, 2 C G D for keys and values, and the output gate."""
        own = 2 * shape.n_embd * shape.head_dim * (shape.n_head + self.kv_heads(shape))
        return own + self.switch_matmul_params(shape)

    def params(self, shape: Shape) -> int:
        """Weights, with bias H D + 2 G D + C more, and the switches'."""
        own = self.matmul_params(shape) - self.switch_matmul_params(shape)
        biases = shape.head_dim * (shape.n_head + 2 * self.kv_heads(shape)) + shape.n_embd
        return own + shape.bias * biases + self.switch_params(shape)

    def cache_cost(self, shape: Shape) -> CacheCost:
        """One key and one value of each key/value head per token."""
        return CacheCost(per_token=2 * self.kv_heads(shape) * shape.head_dim)


@register_attention(
    "mha", module=_MODULE, summary="multi-head: every query head has its own keys and values", help_rank=1
)
class MHAConfig(GroupedConfig):
    """Multi-head attention: G = H. No settings of its own."""

    def kv_heads(self, shape: Shape) -> int:
        """As many as query heads."""
        return shape.n_head

    def ground(self, shape: Shape) -> Ground:
        """It is the common ground itself."""
        return Ground({})


@register_attention("mqa", module=_MODULE, summary="multi-query: all query heads share one key/value head", help_rank=1)
class MQAConfig(GroupedConfig):
    """Multi-query attention: G = 1. No settings of its own."""

    def kv_heads(self, shape: Shape) -> int:
        """One for all."""
        return 1

    def same_as(self, shape: Shape) -> ModelAttention:
        """Grouped-query attention with a single group."""
        return GQAConfig(n_kv_head=1)


@register_attention(
    "gqa", module=_MODULE, summary="grouped-query: groups of query heads share a key/value head", help_rank=1
)
class GQAConfig(GroupedConfig):
    """Grouped-query attention: G divides H; G = H is multi-head, G = 1 multi-query."""

    n_kv_head: Annotated[int, Field(ge=1)] = 2
    """key/value heads, each shared by a group of query heads; divides --n-head"""

    def kv_heads(self, shape: Shape) -> int:
        """As set."""
        return self.n_kv_head

    def cache_knob(self) -> str | None:
        """The cache is that of the key/value heads."""
        return "n_kv_head"

    def same_as(self, shape: Shape) -> ModelAttention | None:
        """Multi-head attention, where no head is shared."""
        return MHAConfig() if self.n_kv_head == shape.n_head else None

    def ground(self, shape: Shape) -> Ground:
        """Key/value heads of its own for every query head."""
        return Ground({"n_kv_head": shape.n_head})

    def check(self, shape: Shape) -> list[str]:
        """The groups must be of equal size."""
        faults = super().check(shape)
        if shape.n_head % self.n_kv_head == 0:
            return faults
        fits = [n for n in range(1, shape.n_head + 1) if shape.n_head % n == 0]
        return [*faults, f"--n-kv-head {self.n_kv_head} must divide --n-head {shape.n_head}; possible: {fits}"]
