"""Settings, mask and costs of causal block-sparse attention.

Source: Zaheer et al. 2020, BigBird (arXiv 2007.14062), section 2. Made causal, BigBird's global rows, which see
everything, fall away and its global columns become a prefix that all later tokens see. There is no published causal
form; this is ours.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from vgpt.attention.config import CacheCost, ModelAttention, Shape
from vgpt.attention.ground import Ground
from vgpt.attention.grouped.config import GroupedConfig, MHAConfig
from vgpt.attention.registry import register_attention
from vgpt.attention.sparse.links import column_links, fold, fresh_links


@register_attention(
    "sparse",
    module="vgpt.attention.sparse.module:SparseAttention",
    summary="block-sparse (BigBird): global prefix, sliding window and random past blocks",
    help_rank=3,
)
class SparseConfig(GroupedConfig):
    """BigBird's block-sparse attention, causal, with the weights of multi-head attention.

    Tokens fall into blocks of `sparse_block_size`. With g global, w window and r random blocks, block row b sees the
    blocks {0 .. g-1}, {b-w+1 .. b} and r distinct ones of {g .. b-w}, all where there are no more; within these a token
    sees those up to itself. The first g + w + r rows therefore see everything before them.
    """

    sparse_block_size: Annotated[int, Field(ge=1)] = 64
    """tokens per block, the unit in which attention is sparse"""
    global_blocks: Annotated[int, Field(ge=0)] = 1
    """blocks at the start of the text that every later token sees"""
    window_blocks: Annotated[int, Field(ge=1)] = 3
    """latest blocks that a token sees, its own included"""
    random_blocks: Annotated[int, Field(ge=0)] = 3
    """blocks between globals and window that a token sees, drawn for each head and layer"""
    random_mode: Literal["row", "column"] = "row"
    """row draws fresh random blocks for every block row, as BigBird; column keeps its own, which bounds the cache"""
    link_seed: Annotated[int, Field(ge=0, le=0x7FFFFFFF)] = 0
    """seed of the random blocks, apart from --seed so that all runs have the same pattern"""

    @property
    def seen_blocks(self) -> int:
        """Blocks that a row sees, g + w + r; rows before have fewer and see them all."""
        return self.global_blocks + self.window_blocks + self.random_blocks

    @property
    def span(self) -> int:
        """Most tokens that a token sees."""
        return self.seen_blocks * self.sparse_block_size

    def links(self, row: Any, layer: int = 0, head: Any = 0) -> list[Any]:
        """Return the random blocks of a block row, one entry per link.

        A function of link seed, layer, head and row alone. Takes integers or broadcastable arrays or tensors for row
        and head. Rows before `seen_blocks`, which see everything, get numbers without meaning.
        """
        candidates = row - (self.global_blocks + self.window_blocks - 1)
        state = fold(fold(self.link_seed, layer), head)
        if self.random_mode == "row":
            drawn = fresh_links(fold(state, row), candidates, self.random_blocks)
        else:
            drawn = column_links(state, candidates, self.random_blocks)
        return [link + self.global_blocks for link in drawn]

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """Tokens up to the query in the blocks that its block row sees."""
        row, block = q // self.sparse_block_size, k // self.sparse_block_size
        seen = (row < self.seen_blocks) | (block < self.global_blocks) | (block > row - self.window_blocks)
        for link in self.links(row, layer, head):
            seen = seen | (block == link)
        return (k <= q) & seen

    def pairs(self, tokens: int) -> int:
        """Whole blocks before each row's own, and the triangle in its own; the same in every head and layer."""
        size, most = self.sparse_block_size, self.seen_blocks
        rows, rest = divmod(tokens, size)
        early = min(rows, most)
        earlier = early * (early - 1) // 2 + (rows - early) * (most - 1)
        whole = earlier * size * size + rows * (size * (size + 1) // 2)
        return whole + rest * (min(rows + 1, most) - 1) * size + rest * (rest + 1) // 2

    def dense_pairs(self, tokens: int) -> int:
        """Every query with as many keys as fit its blocks: causality is not subtracted, sparsity is."""
        return tokens * min(self.span, tokens)

    def kv_heads(self, shape: Shape) -> int:
        """As many as query heads: the weights are those of multi-head attention."""
        return shape.n_head

    def cache_cost(self, shape: Shape) -> CacheCost:
        """A key and a value per head and token: of all tokens in row mode, where only the reads are bounded.

        Any past block may be drawn by a later row. Columns make one block superfluous with every new one, whose place
        that takes: no more than the tokens of one row's blocks are ever kept.
        """
        per_token = 2 * shape.n_head * shape.head_dim
        if self.random_mode == "column":
            return CacheCost(per_token=per_token, span=self.span)
        return CacheCost(per_token=per_token, read_span=self.span)

    def same_as(self, shape: Shape) -> ModelAttention | None:
        """Multi-head attention, where every row sees all blocks of the context."""
        return MHAConfig() if self.span >= shape.block_size else None

    def ground(self, shape: Shape) -> Ground:
        """A window over the whole context; narrowed first, since nothing beside it matters before."""
        blocks = -(-shape.block_size // self.sparse_block_size)
        return Ground({"window_blocks": blocks, "global_blocks": 0, "random_blocks": 0})
