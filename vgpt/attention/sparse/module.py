"""Causal block-sparse attention as a layer."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.cache import Cache
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.flex import BLOCK_SIZES, causal_mask, kept
from vgpt.attention.kernels.gather import block_sparse_attention
from vgpt.attention.kernels.scores import ScoreMods, softmax_with_sinks
from vgpt.attention.kernels.single_query import single_query
from vgpt.attention.sparse.block_mask import sparse_mask
from vgpt.attention.sparse.cache import ColumnCache, RowCache
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links


class SparseAttention(GroupedAttention[SparseConfig]):
    """BigBird's attention with the weights of multi-head attention."""

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """Keep keys (rotated, where positions are rotary) and values of all tokens; by columns, of those in use."""
        kind = RowCache if self.config.random_mode == "row" else ColumnCache
        heads, width = self.shape.n_head, self.shape.head_dim
        return kind(self.config, self.layer, batch, heads, max_tokens, width, dtype=dtype, device=device)

    def block_mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        """Return the mask of this layer's links; a sequence of which rows see everything is plain causal attention."""
        if self.config.span < tokens:
            size = 128 if self.config.sparse_block_size % 128 == 0 else BLOCK_SIZES["sparse"]
            return kept(sparse_mask, self.config, self.layer, self.shape.n_head, tokens, size, device)
        return None if self.extra.plain_scores else causal_mask(tokens, device)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> Tensor:
        if cache is None:
            return self._whole(q, k, v)
        assert isinstance(cache, RowCache | ColumnCache)
        if cache.length == 0 and q.shape[2] > 1:
            cache.fill(k, v)
            # Prompts have any length, and each new one would be compiled anew: they do not take the fused kernel.
            return self._whole(q, k, v, fused=False)
        parts: list[Tensor] = []
        done, size = 0, self.config.sparse_block_size
        while done < q.shape[2]:
            end = min(q.shape[2], done + size - cache.length % size)
            parts.append(self._continued(q[:, :, done:end], k[:, :, done:end], v[:, :, done:end], cache))
            done = end
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, *, fused: bool = True) -> Tensor:
        """Attend in a sequence from its start, through the fused kernel where there is one and it is wanted."""
        T, config = q.shape[2], self.config
        mods = self.extra.score_mods(q.device)
        if not self.shape.flash:
            return attend(q, k, v, mask=self.head_mask(0, T, 0, T, q.device), flash=False, mods=mods)
        if fused and (blocks := self.mask_for(q, k, v)) is not None:
            return attend(q, k, v, block_mask=blocks, mods=mods)
        if config.span >= T:
            return attend(q, k, v, mods=mods)
        size = config.sparse_block_size
        links = row_links(config, self.layer, self.shape.n_head, -(-T // size), q.device)
        return block_sparse_attention(q, k, v, links, size, mods=mods)

    def _continued(self, q: Tensor, k: Tensor, v: Tensor, cache: RowCache | ColumnCache) -> Tensor:
        """Attend with tokens of one block row, which continue a sequence, to what that row sees."""
        first, n = cache.length, q.shape[2]
        keys, values, live = cache.extend(k, v)
        sinks, slopes = self.extra.sinks(), self.extra.slopes(q.device)
        q, bias = q.to(keys.dtype), None
        if slopes is not None:
            places = torch.arange(first, first + n, device=q.device)[:, None]
            bias = -slopes.view(-1, 1, 1) * (places - cache.positions()[:, None, : keys.shape[2]])  # (H, n, keys)
        if n == 1 and self.shape.flash:
            bias = None if bias is None else bias[:, 0]
            return single_query(q, keys, values, live, bias=bias, mods=ScoreMods(sinks=sinks))
        scores = (q @ keys.mT) * self.shape.head_dim**-0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if bias is not None:
            scores = scores + bias
        # In the order of storage, a token sees all before it.
        later = torch.arange(keys.shape[2], device=q.device) > torch.arange(live - n, live, device=q.device)[:, None]
        return softmax_with_sinks(scores.masked_fill(later, -torch.inf), sinks).to(values.dtype) @ values

    def head_mask(self, q0: int, nq: int, k0: int, nk: int, device: torch.device | str | None = None) -> Tensor:
        """Return (H, nq, nk) booleans: may query `q0 + i` see key `k0 + j` in each head."""
        q = torch.arange(q0, q0 + nq, device=device)[:, None]
        k = torch.arange(k0, k0 + nk, device=device)[None, :]
        heads = torch.arange(self.shape.n_head, device=device).view(-1, 1, 1)
        return self.config.visible(q, k, self.layer, heads)
