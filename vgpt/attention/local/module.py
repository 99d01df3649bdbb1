"""Sliding-window attention as a layer."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.cache import Cache
from vgpt.attention.config import Shape
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.block_masks import window_mask
from vgpt.attention.kernels.flex import BLOCK_SIZES, causal_mask, kept
from vgpt.attention.kernels.scores import ScoreMods
from vgpt.attention.kernels.single_query import single_query
from vgpt.attention.kernels.windowed import windowed
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.place import Place
from vgpt.attention.ring import RingCache


class LocalAttention(GroupedAttention[LocalConfig]):
    """Softmax attention over the last tokens, with the weights of multi-head attention."""

    def __init__(self, config: LocalConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.window = config.window_size

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> RingCache:
        """Keep keys (rotated, where positions are rotary) and values of the last `window_size` tokens."""
        parts = [(self.kv_heads, self.shape.head_dim)] * 2
        return RingCache(batch, max_tokens, self.window, parts, dtype=dtype, device=device)

    def block_mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        """Return the mask of the window; one that covers the sequence is plain causal attention."""
        if self.window < tokens:
            return kept(window_mask, self.window, tokens, BLOCK_SIZES["window"], device)
        return None if self.extra.plain_scores else causal_mask(tokens, device)

    @property
    def steps(self) -> bool:
        """Where nobody changed the window, and the formula is not asked for."""
        return "step_at" in vars(type(self)) and type(self.config).visible is LocalConfig.visible and self.shape.flash

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map one token as `forward` does: a ring that has gone round holds nothing but the window."""
        return super().step_at(x, cache, place)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> Tensor:
        if cache is None:
            return self._windowed(q, k, v, whole=True)
        assert isinstance(cache, RingCache)
        if q.shape[2] == 1 and self.shape.flash:
            return self._step(q, k, v, cache)
        k, v = cache.append(k, v)
        return self._windowed(q.to(k.dtype), k, v)

    def _step(self, q: Tensor, k: Tensor, v: Tensor, cache: RingCache) -> Tensor:
        """Decode one token over the ring as it lies: a softmax does not care for the order of its keys."""
        cache.step(k, v)
        keys, values = cache.dense
        bias, slopes = None, self.extra.slopes(q.device)
        if slopes is not None:
            rows = torch.arange(keys.shape[2], device=q.device)
            bias = -slopes.view(-1, 1) * ((cache.last - rows) % cache.capacity)
        mods = ScoreMods(sinks=self.extra.sinks())
        return single_query(q.to(keys.dtype), keys, values, live=cache.live, bias=bias, mods=mods)

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, *, whole: bool = False) -> Tensor:
        """Attend with T queries, the last of which stands at the last of the S keys."""
        T, S = q.shape[2], k.shape[2]
        mods = self.extra.score_mods(q.device)
        if not self.shape.flash:
            mask = self.mask(S - T, T, 0, S, q.device)
            return attend(q, k, v, offset=S - T, mask=mask, flash=False, mods=mods)
        # Prompts have any length, and each new one would be compiled anew: they do not take the fused kernel.
        if whole and (blocks := self.mask_for(q, k, v)) is not None:
            return attend(q, k, v, block_mask=blocks, mods=mods)
        return windowed(q, k, v, self.window, mods=mods)
