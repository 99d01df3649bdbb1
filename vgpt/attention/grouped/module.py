"""Multi-head, multi-query and grouped-query attention in one module."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache, TokenCache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grouped.config import GroupedConfig
from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.flex import causal_mask, visible_mask
from vgpt.attention.kernels.single_query import attend_at, single_query
from vgpt.attention.place import Place
from vgpt.attention.switches import Switches

GroupedT = TypeVar("GroupedT", bound=GroupedConfig)


class GroupedAttention(CausalSelfAttention[GroupedT]):
    """Softmax attention with H query heads and G key/value heads.

    Query heads h and h + 1 share a key/value head when h // (H / G) is equal: the layout of Llama and of SDPA's
    `enable_gqa`. The rows of `c_attn` are all queries, then all keys, then all values, as in GPT-2 (transposed).
    """

    def __init__(self, config: GroupedT, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.kv_heads = config.kv_heads(shape)
        self.widths = [shape.n_head * shape.head_dim] + [self.kv_heads * shape.head_dim] * 2
        # A plug-in may reuse this module and only say anew who sees whom.
        self.plain_causal = type(config).visible is AttentionConfig.visible
        self.c_attn = nn.Linear(shape.n_embd, sum(self.widths), bias=shape.bias)
        self.c_proj = nn.Linear(self.widths[0], shape.n_embd, bias=shape.bias)
        self.extra = Switches(shape, shape.head_dim, shape.head_dim)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        B, T, _ = x.shape
        q, k, v = self._heads(x, 0 if cache is None else cache.length)
        y = self._attend(q, k, v, cache)
        return self.c_proj(self.extra.gated(y.transpose(1, 2).reshape(B, T, -1).to(q.dtype), x))

    @property
    def steps(self) -> bool:
        """Where all earlier tokens are seen, and the formula is not asked for."""
        return super().steps and self.plain_causal and self.shape.flash

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map one token as `forward` does."""
        assert isinstance(cache, TokenCache)
        H, D = self.shape.n_head, self.shape.head_dim
        projected = self.c_attn(x).unflatten(-1, (-1, D))
        # Queries and keys of all heads lie side by side and are turned at once.
        turned, v = projected.split([H + self.kv_heads, self.kv_heads], 2)
        if not self.extra.plain_heads:
            turned = torch.cat(self.extra.normed(*turned.split([H, self.kv_heads], 2)), 2)
        if self.shape.pos == "rope":
            turned = place.rotated(turned, self.shape.rope_base)
        q, k = turned.split([H, self.kv_heads], 2)
        cache.put(place, k.transpose(1, 2), v.transpose(1, 2))
        keys, values = cache.dense
        y = attend_at(place, q[:, 0].to(keys.dtype), keys, values, mods=self.extra.score_mods_at(place))
        return self.c_proj(self.extra.gated(y.flatten(1)[:, None].to(x.dtype), x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> Tensor:
        """Attend: queries (B, H, T, D), keys and values (B, G, T, D) become (B, H, T, D)."""
        T, start = q.shape[2], 0 if cache is None else cache.length
        mods = self.extra.score_mods(q.device)
        if cache is not None:
            assert isinstance(cache, TokenCache)
            k, v = cache.append(k, v)
            q = q.to(k.dtype)
            if T == 1 and self.plain_causal and self.shape.flash:
                return single_query(q, *cache.dense, live=cache.length, mods=mods)
        # Prompts have any length, and each new one would be compiled anew: they do not take the fused kernel.
        if cache is None and self.shape.flash and (blocks := self.mask_for(q, k, v)) is not None:
            return attend(q, k, v, block_mask=blocks, mods=mods)
        mask = None if self.plain_causal else self.mask(start, T, 0, k.shape[2], q.device)
        return attend(q, k, v, offset=start, mask=mask, flash=self.shape.flash, mods=mods)

    def block_mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        """Return a mask where a plug-in says who sees whom, or a switch adds to the scores; None = plain attention."""
        if not self.plain_causal:
            return visible_mask(self.config.visible, self.layer, tokens, device)
        return None if self.extra.plain_scores else causal_mask(tokens, device)

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """Keys (rotated, where positions are rotary) and values of each key/value head."""
        return TokenCache(batch, max_tokens, [(self.kv_heads, self.shape.head_dim)] * 2, dtype=dtype, device=device)

    def _heads(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, D), keys and values (B, G, T, D) of tokens from position `start` on."""
        D = self.shape.head_dim
        q, k, v = (part.unflatten(-1, (-1, D)) for part in self.c_attn(x).split(self.widths, -1))
        q, k = self.extra.normed(q, k)
        q, k = self.rotated(start, q, k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
