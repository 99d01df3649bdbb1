"""Small backbones and layers that the attention tests share."""

import pytest
import torch

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention

VARIANTS = ("mha", "mqa", "gqa:n_kv_head=2")


def make_layer(attn: str, *, dtype: torch.dtype = torch.float32, **shape) -> CausalSelfAttention:
    """A layer of width 32 with 4 heads and random weights."""
    layer = build_attention(resolve_attention(attn), Shape(**{"n_embd": 32, "n_head": 4, "block_size": 64, **shape}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.2, generator=generator))
    return layer.to(dtype)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal numbers of a fixed seed."""
    return torch.empty(shape, dtype=dtype).normal_(generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=VARIANTS)
def attn(request: pytest.FixtureRequest) -> str:
    """Each grouped variant."""
    return request.param


@pytest.fixture(params=["learned", "rope", "none"])
def pos(request: pytest.FixtureRequest) -> str:
    """Each position encoding."""
    return request.param


@pytest.fixture
def layer():
    """The function that makes a layer."""
    return make_layer


@pytest.fixture
def noise():
    """The function that makes random tensors."""
    return random
