"""Local attention: multi-head attention whose queries see a window of the latest tokens."""

import torch
from torch import Tensor

from vgpt.attention.backends import attend, one_query
from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.flex import can_flex, flex_attend
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.local.windowed import windowed
from vgpt.attention.ring import RingCache


class LocalAttention(GroupedAttention):
    """Softmax attention over the `window_size` latest tokens; the weights are those of multi-head attention."""

    def __init__(self, config: AttentionConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        assert isinstance(config, LocalConfig)
        self.window = config.window_size

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        B, T, _ = x.shape
        q, k, v = self._heads(x, 0 if cache is None else cache.length)
        if cache is None:
            y = self._attend(q, k, v, whole=True)
        else:
            assert isinstance(cache, RingCache)
            y = self._continue(q, k, v, cache).to(q.dtype)
        return self.c_proj(self.extra.gated(y.transpose(1, 2).reshape(B, T, -1), x))

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> RingCache:
        """Keys (rotated, where positions are rotary) and values of the window."""
        parts = [(self.kv_heads, self.shape.head_dim)] * 2
        return RingCache(batch, max_tokens, self.window, parts, dtype=dtype, device=device)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, whole: bool = False) -> Tensor:
        """Attend with the queries of the last T of S positions (B, H, T, D) to keys and values (B, G, S, D)."""
        T, S = q.shape[2], k.shape[2]
        sinks, slopes = self.extra.sink_bias, self.extra.slopes(q.device)
        if not self.shape.flash:
            # A window looks the same from everywhere: the first of the keys may stand at 0.
            mask = self.mask(S - T, T, 0, S, q.device)
            return attend(q, k, v, offset=S - T, mask=mask, flash=False, sinks=sinks, slopes=slopes)
        # Prompts have any length, and each new one would be compiled anew: they do not take the fused kernel.
        if whole and self.window < T and can_flex(q):
            return flex_attend(q, k, v, self.config.visible, sinks=sinks, slopes=slopes)
        return windowed(q, k, v, self.window, sinks=sinks, slopes=slopes)

    def _continue(self, q: Tensor, k: Tensor, v: Tensor, cache: RingCache) -> Tensor:
        """Attend likewise to what the cache holds and to the T new keys and values, which it takes in."""
        if q.shape[2] == 1 and self.shape.flash:
            cache.step(k, v)
            sinks, slopes = self.extra.sink_bias, self.extra.slopes(q.device)
            q = q.to(cache.dense[0].dtype)
            return one_query(q, *cache.dense, live=cache.live, last=cache.last, sinks=sinks, slopes=slopes)
        keys, values = cache.append(k, v)
        return self._attend(q.to(keys.dtype), keys, values)
