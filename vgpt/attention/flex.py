"""Attention through torch's FlexAttention: a fused kernel that skips the blocks which a variant's mask leaves empty.

For CUDA devices. On CPUs FlexAttention has no backward pass and is slow; only tests run it there. It knows no dropout
on the weights, and neither does vgpt.

Source: Dong et al. 2024, arXiv 2412.05496.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

Visible = Callable[[Any, Any, int, Any], Any]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NARROWEST = 16
"""Least width of queries, keys and values that the kernel takes: one tile of a matrix product on CUDA."""


def can_flex(q: Tensor) -> bool:
    """Return whether the fused kernel exists for queries, keys and values like these: on CUDA, up to float32."""
    return q.device.type == "cuda" and q.dtype in _DTYPES and q.shape[-1] >= NARROWEST


def flex_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visible,
    *,
    layer: int = 0,
    per_head: bool = False,
    block_size: int = 128,
    scale: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Softmax attention over the keys that `visible` names; both sequences start at position 0.

    The mask is looked at once per length, device and arguments, and kept. Its first look takes T * S booleans, per head
    where heads differ.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, S, D); G divides H, and neighbouring query heads share a key/value head.
        v: values (B, G, S, Dv).
        visible: `AttentionConfig.visible` of the variant's settings; every query must see a key.
        layer: handed to `visible`; leave 0 where the mask is the same in all layers, and they share it.
        per_head: whether the mask differs between heads.
        block_size: granularity of skipping in tokens, a multiple of 128 for speed.
        scale: factor on the products of queries and keys; 1 / sqrt(D) by default.
        sinks: (H,) logits in the denominators.
        slopes: (H,) how much a key's score falls per token of distance.

    Returns:
        (B, H, T, Dv) in the type of q.
    """
    H, T, S = q.shape[1], q.shape[2], k.shape[2]
    # A compiler traces through the making of the mask and keeps nothing.
    make = _block_mask if torch.compiler.is_compiling() else _kept_block_mask
    options: dict[str, Any] = {
        "score_mod": None if slopes is None else _falling(slopes),
        "block_mask": make(visible, layer, H if per_head else None, T, S, block_size, q.device),
        "scale": scale,
        "enable_gqa": k.shape[1] != H,
    }
    attention = _compiled() if can_flex(q) and can_flex(v) and not torch.compiler.is_compiling() else flex_attention
    if sinks is None:
        return attention(q, k, v, **options)
    y, aux = attention(q, k, v, return_aux=AuxRequest(lse=True), **options)
    assert aux.lse is not None
    # With Z the sum over keys, Z / (Z + exp(sink)) is what the sink leaves of each weight.
    share = (aux.lse - sinks.view(-1, 1)).sigmoid()
    return y * share[..., None].to(y.dtype)


def _falling(slopes: Tensor) -> Callable[..., Tensor]:
    def score(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slopes[head] * (query - key)

    return score


def _block_mask(
    visible: Visible,
    layer: int,
    heads: int | None,
    queries: int,
    keys: int,
    block_size: int,
    device: torch.device,
) -> BlockMask:
    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key, layer, head)

    return create_block_mask(seen, None, heads, queries, keys, device=device, BLOCK_SIZE=block_size)


@lru_cache(maxsize=64)
def _kept_block_mask(*arguments: Any) -> BlockMask:
    # A mask born in inference mode could not take part in a later training step.
    with torch.inference_mode(False):
        return _block_mask(*arguments)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)
