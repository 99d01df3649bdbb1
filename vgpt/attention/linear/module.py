"""Linear attention as a layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache
from vgpt.attention.config import Shape
from vgpt.attention.kernels.rope import apply_rotary, rotary_tables
from vgpt.attention.linear.cache import StateCache
from vgpt.attention.linear.chunked import chunked_linear_attention
from vgpt.attention.linear.config import LinearConfig
from vgpt.attention.linear.features import FEATURE_MAPS, FeatureMap, based
from vgpt.attention.linear.naive import quadratic_linear_attention
from vgpt.attention.linear.recurrent import fused_step, recurrent_step
from vgpt.attention.linear.sweep import DENOMINATOR_EPS
from vgpt.attention.place import Place
from vgpt.attention.switches import NORM_EPS, Switches

_Tables = tuple[Tensor, Tensor]


class LinearAttention(CausalSelfAttention[LinearConfig]):
    """Kernel feature-map attention with H heads; parameters as multi-head attention has them.

    Norms of queries and keys, where asked for, come before the feature map, as they come before the product in
    softmax attention.
    """

    def __init__(self, config: LinearConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.map = FEATURE_MAPS[config.feature_map]
        self.c_attn = nn.Linear(shape.n_embd, 3 * shape.n_head * shape.head_dim, bias=shape.bias)
        self.c_proj = nn.Linear(shape.n_head * shape.head_dim, shape.n_embd, bias=shape.bias)
        self.extra = Switches(shape, shape.head_dim, shape.head_dim)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        T = x.shape[1]
        assert cache is None or isinstance(cache, StateCache)
        tables = None
        if self.shape.pos == "rope":
            start = 0 if cache is None else cache.length
            tables = rotary_tables(start, T, self.shape.head_dim, self.shape.rope_base, x.device)
        y = self._mapped(x, tables, None if cache is None else cache.state)
        if cache is not None:
            cache.length += T
        return y

    @property
    def steps(self) -> bool:
        """Where the formula is not asked for."""
        return super().steps and self.shape.flash

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map one token as `forward` does."""
        assert isinstance(cache, StateCache)
        rotates = self.shape.pos == "rope"
        tables = place.rotation(self.shape.head_dim, self.shape.rope_base) if rotates else None
        return self._mapped(x, tables, cache.state, fused_step)

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> StateCache:
        """A state per head, in float32 or wider, of a size that `max_tokens` does not change."""
        settings, shape = self.config, self.shape
        size = (shape.n_head, settings.feature_dim(shape), settings.columns(shape))
        return StateCache(batch, *size, dtype=dtype, device=device)

    def _mapped(
        self, x: Tensor, tables: _Tables | None, state: Tensor | None, step: Callable[..., Tensor] = recurrent_step
    ) -> Tensor:
        """Map (B, T, C) to (B, T, C) with rotary tables of the T positions, where they are rotary; update the state.

        Single tokens go through `step`.
        """
        B, T, _ = x.shape
        q, k, v = (part.unflatten(-1, (self.shape.n_head, -1)) for part in self.c_attn(x).chunk(3, -1))
        q, k = self.extra.normed(q, k)
        with torch.autocast(x.device.type, enabled=False):
            y = self._attend(q, k, v, tables, state, step)
        return self.c_proj(self.extra.gated(y.transpose(1, 2).reshape(B, T, -1).to(v.dtype), x))

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tables: _Tables | None,
        state: Tensor | None,
        step: Callable[..., Tensor],
    ) -> Tensor:
        """Return outputs (B, H, T, D) for heads (B, T, H, D); update the state."""
        run = partial(self._run, step=step)
        norm, feature_map, wide = self.config.linear_norm, self.map, _wide(v)
        if self.config.rotates_features(self.shape):
            q, k = based(feature_map, q.to(wide)), based(feature_map, k.to(wide))
            feature_map = FEATURE_MAPS["identity"]
        plain = q, k
        if tables is not None:
            q, k = apply_rotary(q, *tables), apply_rotary(k, *tables)
        if norm == "denom" and not self.config.splits(self.shape):
            return run(q, k, v, state, feature_map, normalize=True)
        v = v.to(wide)  # sums without a divisor are not for half precision
        if norm == "denom":
            above, below = (None, None) if state is None else (state[..., :-1], state[..., -1:])
            numerator = run(q, k, v, above, feature_map, normalize=False)
            denominator = run(*plain, torch.ones_like(v[..., :1]), below, feature_map, normalize=False)
            return numerator / (denominator + DENOMINATOR_EPS)
        y = run(q, k, v, state, feature_map, normalize=False) * self.shape.head_dim**-0.5
        return F.rms_norm(y, y.shape[-1:], eps=NORM_EPS) if norm == "rms" else y

    def _run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor | None,
        feature_map: FeatureMap,
        *,
        normalize: bool,
        step: Callable[..., Tensor],
    ) -> Tensor:
        """Attend with heads (B, T, H, ...) in whichever form fits, and leave the new state where the old one was."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        slopes = self.extra.slopes(q.device)
        if state is not None and q.shape[2] == 1 and self.shape.flash and not torch.is_grad_enabled():
            return step(q, k, v, state, feature_map=feature_map, slopes=slopes, normalize=normalize)
        common: dict[str, Any] = {"feature_map": feature_map, "slopes": slopes, "normalize": normalize}
        if state is not None:
            # A copy, because gradients may need the state as it was.
            common |= {"state": state.clone(), "keep_state": True}
        if self.shape.flash:
            y, last = chunked_linear_attention(q, k, v, chunk_size=self.config.chunk_size, **common)
        else:
            y, last = quadratic_linear_attention(q, k, v, **common)
        if state is not None and last is not None:
            state.copy_(last.detach())
        return y


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
