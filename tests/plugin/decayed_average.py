"""A third-party variant in one file: no attention at all, but an average of the past that fades with distance.

`vgpt --plugin decayed_average.py train --attn decay --half-life 4`
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig, CacheCost, Flops, Shape
from vgpt.attention.registry import register_attention
from vgpt.errors import VgptError


@register_attention("decay", module="DecayedAverage", summary="average of past values, fading at a rate per head")
class DecayConfig(AttentionConfig):
    """Each head averages the values so far, weighted by exp(-rate * distance); the rates are learned.

    Source: the moving average in Mega, Ma et al. 2022 (arXiv 2209.10655), without the attention around it.
    """

    half_life: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """tokens after which the first head's weights have halved, at the start; doubles from head to head"""

    def effective_positions(self, shape: Shape) -> str:  # the decay tells near from far
        return f"{shape.pos}+decay"

    def qk_dim(self, shape: Shape) -> int:
        """No scores are computed."""
        return 0

    def v_dim(self, shape: Shape) -> int:
        """The values and a one, which becomes the sum of the weights."""
        return shape.head_dim + 1

    def matmul_params(self, shape: Shape) -> int:  # values and output
        return 2 * shape.n_embd**2

    def params(self, shape: Shape) -> int:  # weights, biases and a rate per head
        return self.matmul_params(shape) + shape.bias * 2 * shape.n_embd + shape.n_head

    def decode_flops(self, shape: Shape, tokens: int) -> Flops:
        """The state takes in one token, whatever came before."""
        return Flops(2 * self.matmul_params(shape), 2 * shape.n_head * self.v_dim(shape))

    def cache_cost(self, shape: Shape) -> CacheCost:
        """A sum of values and of weights per head, in float32."""
        return CacheCost(fixed=shape.n_head * self.v_dim(shape), state_bytes=4)


class Average(Cache):
    """The weighted sums of the past: (B, H, D + 1)."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def stored(self) -> list[Tensor]:
        return [self.state]

    buffers = stored

    def rewind(self, length: int) -> None:
        if length not in (0, self.length):
            raise VgptError(f"a sum of {self.length} tokens cannot go back to {length}")
        if length == 0:
            self.state.zero_()
        self.length = length


class DecayedAverage(CausalSelfAttention):
    def __init__(self, config: DecayConfig, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.c_value = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)
        self.c_proj = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)
        self.rate_bias = nn.Parameter(torch.empty(shape.n_head))  # named as a bias so that it starts at zero

    def forward(self, x: Tensor, cache: Average | None = None) -> Tensor:
        T, H = x.shape[1], self.shape.n_head
        v = self.c_value(x).unflatten(-1, (H, -1)).transpose(1, 2)  # (B, H, T, D)
        with torch.autocast(x.device.type, enabled=False):  # sums of many tokens need float32
            v = v.to(torch.promote_types(v.dtype, torch.float32))
            v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
            t = torch.arange(T, device=x.device, dtype=v.dtype)
            half_lives = self.config.half_life * 2.0 ** torch.arange(H, device=x.device, dtype=v.dtype)
            rates = self.rate_bias.to(v.dtype).exp()[:, None, None] * 0.6931471805599453 / half_lives[:, None, None]
            sums = (-rates * (t[:, None] - t).clamp(min=0)).exp().tril() @ v
            if cache is not None:
                sums = sums + (-rates * (t[:, None] + 1)).exp() * cache.state[:, :, None]
                cache.state.copy_(sums[:, :, -1])
                cache.length += T
        y = (sums[..., :-1] / sums[..., -1:]).to(x.dtype)
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Average:
        return Average(torch.zeros(batch, self.shape.n_head, self.shape.head_dim + 1, device=device))
