"""Multi-head latent attention, in two forms that give the same numbers.

Expanded, for training and for reading a prompt: keys and values of each head are made from the latents, then it is
ordinary attention. Absorbed, for decoding: since q . (W_UK c) = (W_UK^T q) . c, the query is carried into the space of
the latents and attends to them directly, as multi-query attention with one head of width c + e. Its output leaves that
space through W_UV. No key or value is ever made (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).

Letters: c = kv_lora_rank, n = qk_nope_head_dim, e = qk_rope_head_dim, Dv = v_head_dim.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache, TokenCache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.kernels.backends import attend
from vgpt.attention.kernels.flex import causal_mask, visible_mask
from vgpt.attention.kernels.rope import apply_rotary, rotary_tables
from vgpt.attention.kernels.scores import ScoreMods
from vgpt.attention.kernels.single_query import attend_at, single_query_to_rows
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.place import Place
from vgpt.attention.switches import Switches, rms_norm


class LatentNorm(nn.Module):
    """RMS norm of latents, computed in float32 or wider, whatever type goes in and comes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Norm (..., width)."""
        return rms_norm(x, self.weight)


class LatentAttention(CausalSelfAttention[MLAConfig]):
    """Softmax attention whose keys and values come from one latent per token.

    Names and rows of the projections are DeepSeek's, but for `c_proj`: `kv_a_proj` gives the latent, then the rotary
    key; `kv_b_proj` gives per head the key's n rows, then the value's. Rotary features are half-split
    (vgpt.attention.kernels.rope), where DeepSeek's lie in neighboring pairs.
    """

    def __init__(self, config: MLAConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.heads, self.rank = shape.n_head, config.kv_lora_rank
        self.nope, self.rope, self.value = config.nope_dim(shape), config.rope_dim(shape), config.v_dim(shape)
        self.scale = (self.nope + self.rope) ** -0.5
        # A plug-in may reuse this module and only say anew who sees whom.
        self.plain_causal = type(config).visible is AttentionConfig.visible
        queries = self.heads * (self.nope + self.rope)
        self.direct_queries = config.q_lora_rank is None
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(shape.n_embd, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(shape.n_embd, config.q_lora_rank, bias=shape.bias)
            self.q_a_layernorm = LatentNorm(config.q_lora_rank)
            self.q_b_proj = nn.Linear(config.q_lora_rank, queries, bias=False)
        self.kv_a_proj = nn.Linear(shape.n_embd, self.rank + self.rope, bias=shape.bias)
        self.kv_a_layernorm = LatentNorm(self.rank)
        self.kv_b_proj = nn.Linear(self.rank, self.heads * (self.nope + self.value), bias=False)
        self.c_proj = nn.Linear(self.heads * self.value, shape.n_embd, bias=shape.bias)
        self.extra = Switches(shape, self.nope + self.rope, self.value)
        self._packed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        start = 0 if cache is None else cache.length
        q_nope, q_rope = self._queries(x)
        latent, k_rope = self._latents(x)
        if self.rope:
            tables = rotary_tables(start, x.shape[1], self.rope, self.shape.rope_base, x.device)
            # At once: a decoding step of a small model is mostly the cost of starting its many small operations.
            q_rope, k_rope = apply_rotary(torch.cat((q_rope, k_rope), 2), *tables).split([self.heads, 1], 2)
        if cache is not None:
            assert isinstance(cache, TokenCache)
            cache.append(torch.cat((latent, k_rope[:, :, 0]), -1)[:, None])
        if cache is None or start == 0:
            y = self._expanded(q_nope, q_rope, latent, k_rope, fused=cache is None)
        elif self._absorbs(x.shape[1], cache.length):
            y = self._absorbed(q_nope, q_rope, cache)
        else:
            latent, k_rope = cache.stored()[0].to(latent.dtype)[:, 0].split([self.rank, self.rope], -1)
            y = self._expanded(q_nope, q_rope, latent, k_rope[:, :, None])
        return self.c_proj(self.extra.gated(y, x))

    @property
    def steps(self) -> bool:
        """Where all earlier tokens are seen, and the formula is not asked for."""
        return super().steps and self.plain_causal and self.shape.flash

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map one token as `forward` does, in the absorbed form from the first token on."""
        assert isinstance(cache, TokenCache)
        (q_nope, q_rope), (latent, k_rope) = self._queries(x), self._latents(x)
        if self.rope:
            turned = place.rotated(torch.cat((q_rope, k_rope), 2), self.shape.rope_base)
            q_rope, k_rope = turned.split([self.heads, 1], 2)
        cache.put(place, torch.cat((latent, k_rope[:, :, 0]), -1)[:, None])

        def attend_rows(q: Tensor, rows: Tensor) -> Tensor:
            mods = self.extra.score_mods_at(place, self.scale)
            return attend_at(place, q, rows, rows[..., : self.rank], mods=mods)

        return self.c_proj(self.extra.gated(self._absorbed_step(q_nope[:, 0], q_rope[:, 0], cache, attend_rows), x))

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> TokenCache:
        """The normed latent and the rotated key that all heads share, side by side in one row of c + e numbers."""
        return TokenCache(batch, max_tokens, [(1, self.rank + self.rope)], dtype=dtype, device=device)

    def block_mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        """Return a mask where a plug-in says who sees whom, or a switch adds to the scores; None = plain attention."""
        if not self.plain_causal:
            return visible_mask(self.config.visible, self.layer, tokens, device)
        return None if self.extra.plain_scores else causal_mask(tokens, device)

    def pack(self) -> None:
        """Keep the two halves of `kv_b_proj`, apart where the CPU's bfloat16 product would copy them at each step."""
        self._packed = None
        into, back = self._carriers()
        if into.dtype is torch.bfloat16 and into.device.type == "cpu":
            into, back = into.contiguous(), back.mT.contiguous().mT
        self._packed = into, back

    def _queries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries' parts (B, T, H, n) and, not rotated yet, (B, T, H, e)."""
        q = self.q_proj(x) if self.direct_queries else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = self.extra.queries(q.unflatten(-1, (self.heads, -1)))
        q_nope, q_rope = q.split([self.nope, self.rope], -1)
        return q_nope, q_rope

    def _latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed latents (B, T, c) and, not rotated yet, the shared key (B, T, 1, e)."""
        latent, k_rope = self.kv_a_proj(x).split([self.rank, self.rope], -1)
        return self.kv_a_layernorm(latent), k_rope[:, :, None]

    def _absorbs(self, new: int, total: int) -> bool:
        # The textbook formula has keys and values.
        return self.shape.flash and self.config.absorbing_pays(self.shape, new, total)

    def _expanded(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, *, fused: bool = False
    ) -> Tensor:
        """Attend with queries of T tokens to keys made of S latents (B, S, c) and shared keys (B, S, 1, e).

        Returns the heads' outputs (B, T, H Dv). The last query stands at the last key. `fused` allows FlexAttention,
        which compiles for each length, as prompts have any.
        """
        kv = self.kv_b_proj(latent).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, S, n + Dv)
        k_nope, v = kv.split([self.nope, self.value], -1)
        # Joined in the order of heads, tokens, features, which is the order that the products want.
        k = torch.cat((k_nope, k_rope.transpose(1, 2).expand(-1, self.heads, -1, -1)), -1)
        q = torch.cat((q_nope.transpose(1, 2), q_rope.transpose(1, 2)), -1)
        if fused and self.shape.flash and (blocks := self.mask_for(q, k, v)) is not None:
            y = attend(q, k, v, block_mask=blocks, mods=self._mods(q))
        else:
            y = self._attend(q, k, v)
        return y.transpose(1, 2).flatten(2)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, cache: TokenCache) -> Tensor:
        """Attend with queries of the last T tokens to the rows of the cache; as `_expanded` for the same tokens."""
        B, T = q_nope.shape[:2]
        if T == 1 and self.plain_causal:

            def attend_rows(q: Tensor, rows: Tensor) -> Tensor:
                return single_query_to_rows(q, rows, self.rank, cache.length, mods=self._mods(q))

            return self._absorbed_step(q_nope.squeeze(1), q_rope.squeeze(1), cache, attend_rows)
        into, back = self._carriers()
        by_head = q_nope.reshape(B * T, self.heads, self.nope).transpose(0, 1)
        carried = torch.bmm(by_head, into).view(self.heads, B, T, self.rank).transpose(0, 1)  # (B, H, T, c)
        rows = cache.dense[0][:, :, : cache.length]
        q = _as(torch.cat((carried, q_rope.transpose(1, 2)), -1), rows.dtype)
        # The values are the front of the rows; the fused kernel would pad a front to the width of the whole.
        y = _as(self._attend(q, rows, rows)[..., : self.rank], q_nope.dtype)
        y = y.transpose(0, 1).reshape(self.heads, B * T, self.rank)
        return torch.bmm(y, back).view(self.heads, B, T, self.value).permute(1, 2, 0, 3).flatten(2)

    def _absorbed_step(
        self, q_nope: Tensor, q_rope: Tensor, cache: TokenCache, attend_rows: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Attend with one token's queries (B, H, n) and (B, H, e); return (B, 1, H Dv).

        Between the products, `attend_rows` maps queries (B, H, c + e) and the cache's rows to (B, H, c).

        Few operations, since in a short context each costs as much as one of the four products.
        """
        into, back = self._carriers()
        (rows,) = cache.dense
        carried = torch.bmm(q_nope.transpose(0, 1), into).transpose(0, 1)  # (B, H, c)
        q = _as(torch.cat((carried, q_rope), -1), rows.dtype)
        y = attend_rows(q, rows)
        outputs = torch.bmm(_as(y, q_nope.dtype).transpose(0, 1), back)  # (H, B, Dv)
        return outputs.transpose(0, 1).reshape(y.shape[0], 1, -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        start = k.shape[2] - q.shape[2]
        return attend(
            q,
            k,
            v,
            offset=start,
            mask=None if self.plain_causal else self.mask(start, q.shape[2], 0, k.shape[2], q.device),
            flash=self.shape.flash,
            mods=self._mods(q),
        )

    def _mods(self, q: Tensor) -> ScoreMods:
        return self.extra.score_mods(q.device, self.scale)

    def _carriers(self) -> tuple[Tensor, Tensor]:
        """Return W_UK (H, n, c) and the transpose of W_UV (H, c, Dv), views of `kv_b_proj` unless packed."""
        if self._packed is not None:
            return self._packed
        w_k, w_v = self.kv_b_proj.weight.view(self.heads, -1, self.rank).split([self.nope, self.value], 1)
        return w_k, w_v.mT


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast where the type differs; asking torch to do nothing takes longer than asking first."""
    return x if x.dtype is dtype else x.to(dtype)
