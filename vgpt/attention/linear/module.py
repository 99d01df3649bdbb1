"""Linear attention as a layer."""

import torch
from torch import Tensor, nn

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.linear.cache import StateCache
from vgpt.attention.linear.chunked import chunked_linear_attention, recurrent_step
from vgpt.attention.linear.config import LinearConfig
from vgpt.attention.linear.features import FEATURE_MAPS
from vgpt.attention.rope import rotary_tables, rotate
from vgpt.attention.switches import NORM_EPS, Switches

EPS = 1e-6
"""Added to denominators: with relu features all of a query's products can be zero."""


class LinearAttention(CausalSelfAttention):
    """Attention with feature maps in place of the softmax; weights as in multi-head attention.

    Everything between the projections is computed in float32 or wider, also under autocast: the denominator grows with
    T and leaves float16's range after some hundred tokens, and bfloat16 forgets what it adds.
    """

    def __init__(self, config: AttentionConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        assert isinstance(config, LinearConfig)
        self.settings = config
        width = shape.n_head * shape.head_dim
        self.c_attn = nn.Linear(shape.n_embd, 3 * width, bias=shape.bias)
        self.c_proj = nn.Linear(width, shape.n_embd, bias=shape.bias)
        self.extra = Switches(shape, shape.head_dim, shape.head_dim)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        B, T, _ = x.shape
        qkv = self.c_attn(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
            y = self._mixed(wide.view(B, T, 3, self.shape.n_head, -1), cache)
        return self.c_proj(self.extra.gated(y.transpose(1, 2).reshape(B, T, -1).to(qkv.dtype), x))

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> StateCache:
        """Allocate a state of constant size, in float32 or wider whatever `dtype` is."""
        config, shape = self.settings, self.shape
        size = (shape.n_head, config.feature_dim(shape), config.columns(shape))
        return StateCache(batch, *size, dtype=dtype, device=device)

    def _mixed(self, qkv: Tensor, cache: Cache | None) -> Tensor:
        """Mix tokens: queries, keys and values (B, T, 3, H, D) become outputs (B, H, T, D)."""
        config, shape = self.settings, self.shape
        start = 0 if cache is None else cache.length
        q, k, v = qkv.unbind(2)
        q, k = self.extra.normed(q, k)
        phi, turned = FEATURE_MAPS[config.feature_map], shape.pos == "rope"
        tables = rotary_tables(start, q.shape[1], shape.head_dim, shape.rope_base, q.device) if turned else None
        if tables is not None and config.feature_map in ("taylor2", "identity"):
            q, k = rotate(q, *tables), rotate(k, *tables)
        q, k, v = phi(q), phi(k), v.transpose(1, 2)
        plain = (q.transpose(1, 2), k.transpose(1, 2))
        if tables is not None and config.feature_map not in ("taylor2", "identity") and not config.splits(shape):
            plain = (rotate(q, *tables).transpose(1, 2), rotate(k, *tables).transpose(1, 2))
        if not config.splits(shape):
            if config.linear_norm == "denom":
                v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
            return self._normed(self._summed(*plain, v, cache, slice(None)))
        assert tables is not None
        rotated = (rotate(q, *tables).transpose(1, 2), rotate(k, *tables).transpose(1, 2))
        D = v.shape[-1]
        above = self._summed(*rotated, v, cache, slice(None, D), last=False)
        below = self._summed(*plain, torch.ones_like(v[..., :1]), cache, slice(D, None))
        return self._normed(torch.cat((above, below), -1))

    def _summed(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None, columns: slice, *, last: bool = True
    ) -> Tensor:
        """Return the unnormalised sums of some of the state's columns, and move that part of the state on."""
        slopes = self.extra.slopes(q.device)
        decay = None if slopes is None else -slopes.to(q.dtype)
        if cache is None:
            return chunked_linear_attention(q, k, v, chunk=self.settings.chunk_size, log_decay=decay)[0]
        assert isinstance(cache, StateCache)
        state = cache.state[..., columns].to(q.dtype)
        if q.shape[2] == 1:
            y, state = recurrent_step(q, k, v, state, decay)
        else:
            y, state = chunked_linear_attention(q, k, v, chunk=self.settings.chunk_size, state=state, log_decay=decay)
        cache.state[..., columns].copy_(state)
        if last:
            cache.length += q.shape[2]
        return y

    def _normed(self, y: Tensor) -> Tensor:
        """Bring sums (B, H, T, columns) into scale: (B, H, T, D)."""
        if self.settings.linear_norm == "denom":
            return y[..., :-1] / (y[..., -1:] + EPS)
        if self.settings.linear_norm == "rms":
            return nn.functional.rms_norm(y, y.shape[-1:], eps=NORM_EPS)
        return y * self.shape.head_dim**-0.5
