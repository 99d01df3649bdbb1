"""Bugs planted in a plug-in that has no softmax but a running state."""

import pytest
import torch
from torch import nn

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig, CacheCost, Flops
from vgpt.conformance import check_names, failures
from vgpt.errors import VgptError


class RunningConfig(AttentionConfig):
    """A plug-in: normalized linear attention with elu(x) + 1, a chunk at a time."""

    chunk: int = 64

    def matmul_params(self, shape):
        return 4 * shape.n_embd**2

    def params(self, shape):
        return self.matmul_params(shape) + shape.bias * 4 * shape.n_embd

    def flops(self, shape, tokens):
        state = 4 * tokens * shape.n_embd * (shape.head_dim + 1)
        return Flops(2 * tokens * self.matmul_params(shape), state)

    def dense_flops(self, shape, tokens):
        inside = 4 * tokens * self.chunk * shape.n_embd
        exact = self.flops(shape, tokens)
        return Flops(exact.projections, exact.attention + inside)

    def decode_flops(self, shape, tokens):
        return Flops(2 * self.matmul_params(shape), 4 * shape.n_embd * (shape.head_dim + 1))

    def cache_cost(self, shape):
        return CacheCost(fixed=shape.n_embd * (shape.head_dim + 1), state_bytes=4)


class RunningCache(Cache):
    """A sum of key-value products, its last column the sum of keys."""

    def __init__(self, batch, heads, width, dtype, device):
        self.state = torch.zeros(batch, heads, width, width + 1, dtype=dtype, device=device)

    def stored(self):
        return [self.state]

    buffers = stored

    def rewind(self, length):
        if length not in (0, self.length):
            raise VgptError("the sums cannot be undone")
        if length == 0:
            self.state.zero_()
        self.length = length


class Running(CausalSelfAttention):
    """The healthy one: the sums are kept in float32."""

    def wide(self, dtype):
        return torch.promote_types(dtype, torch.float32)

    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.c_attn = nn.Linear(shape.n_embd, 3 * shape.n_embd, bias=shape.bias)
        self.c_proj = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)

    def forward(self, x, cache=None):
        heads = self.c_attn(x).unflatten(-1, (3, self.shape.n_head, -1)).transpose(1, 3)  # (B, H, 3, T, D)
        wide = self.wide(heads.dtype)
        q, k, v = heads.to(wide).unbind(2)
        q, k = (torch.where(part > 0, part + 1, part.clamp(max=0).exp()) for part in (q, k))
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        state = 0 if cache is None else cache.state.to(wide)
        rows = []
        with torch.autocast(x.device.type, enabled=False):
            for a, b, c in zip(*(part.split(self.config.chunk, 2) for part in (q, k, v)), strict=True):
                state = state if isinstance(state, torch.Tensor) else a.new_zeros(*a.shape[:2], a.shape[3], c.shape[3])
                rows.append((a @ b.mT).tril() @ c + a @ state)
                state = state + b.mT @ c
        if cache is not None:
            cache.state.copy_(state)
            cache.length += x.shape[1]
        y = torch.cat(rows, 2)
        y = (y[..., :-1] / y[..., -1:]).transpose(1, 2).flatten(2)
        return self.c_proj(y.to(x.dtype))

    def make_cache(self, batch, max_tokens, *, dtype, device):
        return RunningCache(batch, self.shape.n_head, self.shape.head_dim, torch.float32, device)


class SumsInTheInputsPrecision(Running):
    """float16 overflows at a few hundred tokens, without a not-a-number; bfloat16 loses its digits."""

    def wide(self, dtype):
        return dtype


class DropsTheStateOfAPrefill(Running):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        if cache is not None and x.shape[1] > self.config.chunk:
            cache.state.zero_()
        return y


class SaysAnotherPrecision(RunningConfig):
    def cache_cost(self, shape):
        return CacheCost(fixed=shape.n_embd * (shape.head_dim + 1))


class SaysASquareOfFlops(RunningConfig):
    def flops(self, shape, tokens):
        return Flops(2 * tokens * self.matmul_params(shape), 4 * tokens**2 * 4 * shape.n_embd)


class ForgetsToChargeDecoding(RunningConfig):
    """Leaves what a softmax would take."""

    decode_flops = AttentionConfig.decode_flops


def test_a_plug_in_without_a_softmax_keeps_the_contract(register):
    assert failures(register(RunningConfig, Running)) == []


@pytest.mark.parametrize(
    ("config", "module", "check", "phrase"),
    [
        (RunningConfig, SumsInTheInputsPrecision, "low_precision", "float16"),
        (RunningConfig, DropsTheStateOfAPrefill, "decoding", "after a prefill"),
        (SaysAnotherPrecision, Running, "cache_bytes", "bfloat16"),
        (ForgetsToChargeDecoding, Running, "decode_flops", "stated by decode_flops()"),
        (SaysASquareOfFlops, Running, "flops", "attention FLOPs"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if value in check_names() else "",
)
def test_a_bug_in_a_variant_without_a_softmax_is_caught(register, caught, config, module, check, phrase):
    caught(register(config, module), check, phrase)
