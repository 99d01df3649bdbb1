"""Causal block-sparse attention as a layer."""

from typing import Any

import torch
from torch import Tensor

from vgpt.attention.backends import attend, one_query, softmax_with_sinks
from vgpt.attention.cache import Cache, TokenCache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.flex import can_flex, flex_attend
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.sparse.cache import LandmarkCache
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.gather import block_sparse_attention

_links: dict[tuple[Any, ...], Tensor] = {}


class SparseAttention(GroupedAttention):
    """BigBird's attention with the weights of multi-head attention."""

    def __init__(self, config: AttentionConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        assert isinstance(config, SparseConfig)
        self.settings = config

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """Keep keys (rotated, where positions are rotary) and values of all tokens; with landmarks, of those in use."""
        heads, width = self.shape.n_head, self.shape.head_dim
        if self.settings.random_mode == "row":
            return TokenCache(batch, max_tokens, [(heads, width)] * 2, dtype=dtype, device=device)
        return LandmarkCache(self.settings, self.layer, batch, heads, max_tokens, width, dtype=dtype, device=device)

    def head_mask(self, q0: int, nq: int, k0: int, nk: int, device: torch.device | str | None = None) -> Tensor:
        """Return (H, nq, nk) booleans: may query `q0 + i` see key `k0 + j` in each head."""
        q = torch.arange(q0, q0 + nq, device=device)[:, None]
        k = torch.arange(k0, k0 + nk, device=device)[None, :]
        heads = torch.arange(self.shape.n_head, device=device).view(-1, 1, 1)
        return self.settings.visible(q, k, self.layer, heads)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> Tensor:
        if cache is None:
            return self._whole(q, k, v)
        if isinstance(cache, LandmarkCache):
            return self._through_landmarks(q, k, v, cache)
        assert isinstance(cache, TokenCache)
        start = cache.length
        k, v = cache.append(k, v)
        q = q.to(k.dtype)
        if start == 0:
            return self._whole(q, k, v)
        if q.shape[2] == 1 and self.shape.flash:
            return self._step(q, cache)
        return self._masked(q, k, v, start)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in a sequence from its start."""
        T, config = q.shape[2], self.settings
        options = self._options(q)
        if not self.shape.flash:
            return self._masked(q, k, v, 0)
        if config.span >= T:
            return attend(q, k, v, **options)
        if can_flex(q):
            return flex_attend(q, k, v, config.visible, layer=self.layer, per_head=True, **options)
        return block_sparse_attention(q, k, v, self._rows(T, q.device), config.sparse_block_size, **options)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """Attend under a dense mask: the plain formula, and pieces that continue a sequence."""
        mask = self.head_mask(start, q.shape[2], 0, k.shape[2], q.device)
        return attend(q, k, v, offset=start, mask=mask, flash=False, **self._options(q))

    def _step(self, q: Tensor, cache: TokenCache) -> Tensor:
        """Decode one token: read the blocks of its row and nothing else."""
        config, last = self.settings, cache.length - 1
        row, size = last // config.sparse_block_size, config.sparse_block_size
        keys, values = cache.dense
        if row < config.seen_blocks:
            return one_query(q, keys, values, live=cache.length, **self._options(q))
        blocks = self._rows((row + 1) * size, q.device)[:, -1]  # (H, S), its own block last
        tokens = (blocks[..., None] * size + torch.arange(size, device=q.device)).flatten(1)
        tokens = tokens[:, : tokens.shape[1] - size + last % size + 1]
        heads = torch.arange(self.shape.n_head, device=q.device)[:, None]
        slopes = self.extra.slopes(q.device)
        bias = None if slopes is None else -slopes.view(-1, 1) * (last - tokens)
        return one_query(q, keys[:, heads, tokens], values[:, heads, tokens], sinks=self.extra.sink_bias, bias=bias)

    def _through_landmarks(self, q: Tensor, k: Tensor, v: Tensor, cache: LandmarkCache) -> Tensor:
        """Attend to what the cache holds, one block row after the other: what a row sees is all there is."""
        fast = self._whole(q, k, v) if cache.length == 0 and q.shape[2] > 1 else None
        parts: list[Tensor] = []
        done, size = 0, cache.size
        while done < q.shape[2]:
            end = min(q.shape[2], done + size - cache.length % size)
            first = cache.length
            cache.append(k[:, :, done:end], v[:, :, done:end])
            if fast is None:
                parts.append(self._seen(q[:, :, done:end], first, cache))
            done = end
        return torch.cat(parts, 2) if fast is None else fast

    def _seen(self, q: Tensor, first: int, cache: LandmarkCache) -> Tensor:
        """Attend with queries of one block row, the first of which stands at `first`, to all rows of the cache."""
        q = q.to(cache.keys.dtype)
        places = torch.arange(first, first + q.shape[2], device=q.device)[:, None]
        positions = cache.positions()[:, None, :]  # (H, 1, capacity)
        scores = (q @ cache.keys.mT) * self.shape.head_dim**-0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        slopes = self.extra.slopes(q.device)
        if slopes is not None:
            scores = scores - slopes.view(-1, 1, 1) * (places - positions)
        scores = scores.masked_fill((positions < 0) | (positions > places), -torch.inf)
        return softmax_with_sinks(scores, self.extra.sink_bias).to(cache.values.dtype) @ cache.values

    def _options(self, q: Tensor) -> dict[str, Any]:
        return {"sinks": self.extra.sink_bias, "slopes": self.extra.slopes(q.device)}

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        """Return the blocks (H, R, S) that the rows from the S-th on see, the own block last, for so many tokens."""
        config = self.settings
        rows = -(-tokens // config.sparse_block_size)
        if torch.compiler.is_compiling():
            return row_links(config, self.layer, self.shape.n_head, rows, device)
        # As many as a power of two, so that a growing text finds them made.
        capacity = 1 << (rows - 1).bit_length()
        key = (config, self.layer, self.shape.n_head, capacity, str(device))
        if key not in _links:
            with torch.inference_mode(False):
                _links[key] = row_links(config, self.layer, self.shape.n_head, capacity, device)
        return _links[key][:, : rows - config.seen_blocks]


def row_links(config: SparseConfig, layer: int, heads: int, rows: int, device: torch.device) -> Tensor:
    """Return the numbers of the blocks that the block rows S .. rows - 1 see: (H, rows - S, S), the own block last."""
    row = torch.arange(config.seen_blocks, rows, device=device)
    head = torch.arange(heads, device=device)[:, None]
    fixed = [torch.full_like(row, block) for block in range(config.global_blocks)]
    window = [row - back for back in range(config.window_blocks - 1, -1, -1)]
    drawn = config.links(row, layer, head)
    parts = [part.expand(heads, len(row)) for part in (*fixed, *drawn, *window)]
    return torch.stack(parts, -1)
