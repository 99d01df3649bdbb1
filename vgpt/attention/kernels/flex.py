"""Attention through torch's FlexAttention: a fused kernel that skips the blocks which a variant's mask leaves empty.

For CUDA devices. On CPUs FlexAttention has no backward pass and is slow; only tests run it there. It knows no dropout
on the weights, and neither does vgpt.

A mask is made once per pattern, length and device, kept, and shared by all layers that have the same. Layers get theirs
before compiled code begins (`CausalSelfAttention.prepare`), for a compiler would trace its making into every layer.

Source: Dong et al. 2024, arXiv 2412.05496.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_mask, flex_attention

from vgpt.attention.kernels.block_masks import Pairs, looked_up_mask, same_pairs, window_mask
from vgpt.attention.kernels.scores import PLAIN, ScoreMods
from vgpt.attention.kernels.tables import KeptTables

BLOCK_SIZES = {"window": 128, "sparse": 128, "looked_up": 128}
"""Tokens per block of the kernel by kind of mask: small ones skip more, large ones compute faster.

A pattern with blocks of 64 makes those of 128 compute 2.46 times the pairs at 8,192 tokens (benchmarks/flex_gpu.py).
"""

NARROWEST = 16
"""Least width of queries, keys and values that the kernel takes: one tile of a matrix product on CUDA."""

kept = KeptTables(most=128)
"""Masks: `kept(make, *arguments)` returns `make(*arguments)`, made once."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_KERNELS = 256
"""Most compiled forms of the kernel, by shapes and masks; past its limit torch would compute the whole square."""
_LONG = 1024
"""Tokens from which each length has a kernel of its own, which is faster than one for any length."""


def has_kernel(device: torch.device) -> bool:
    """Tell whether a device has the fused kernel."""
    return device.type == "cuda"


def can_flex(*parts: Tensor) -> bool:
    """Return whether the fused kernel exists for queries, keys and values like these: on CUDA, up to float32."""
    return all(has_kernel(x.device) and x.dtype in _DTYPES and x.shape[-1] >= NARROWEST for x in parts)


def flex_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: BlockMask,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Softmax attention over the keys that a mask shows; queries and keys are those of one sequence.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, G, T, D); G divides H, and neighboring query heads share a key/value head.
        v: values (B, G, T, Dv).
        block_mask: see `causal_mask` and its like; every query must see a key.
        mods: what is done to the scores.

    Returns:
        (B, H, T, Dv) in the type of q.
    """
    block_mask, tiles = _tiled(block_mask, q.dtype)
    options: dict[str, Any] = {
        "score_mod": None if mods.slopes is None else _falling(mods.slopes),
        "block_mask": block_mask,
        "scale": mods.scale,
        "enable_gqa": k.shape[1] != q.shape[1],
        "kernel_options": tiles,
    }
    eager = torch.compiler.is_compiling() or not can_flex(q, k, v)
    attention = flex_attention if eager else _compiled(q.shape[2] >= _LONG)
    if mods.sinks is None:
        return attention(q, k, v, **options)
    y, aux = attention(q, k, v, return_aux=AuxRequest(lse=True), **options)
    assert aux.lse is not None
    # With Z the sum over keys, Z / (Z + exp(sink)) is what the sink leaves of each weight.
    share = (aux.lse - mods.sinks.view(-1, 1)).sigmoid()
    return y * share[..., None].to(y.dtype)


def causal_mask(tokens: int, device: torch.device) -> BlockMask:
    """Return the mask of plain causal attention."""
    return kept(window_mask, tokens, tokens, BLOCK_SIZES["window"], device)


def visible_mask(visible: Callable[..., Any], layer: int, tokens: int, device: torch.device) -> BlockMask | None:
    """Return a mask, the same in all heads, from `AttentionConfig.visible` of a variant's settings.

    None, with a warning, for a function that cannot become part of a kernel because it asks tensors for their values.
    Layers that see the same as layer 0 get the mask of that, so that they share its memory and compiled code.
    """
    fault = _fault(visible, layer, device)
    if fault:
        warnings.warn(f"{visible.__qualname__} takes no part in a fused kernel, masks are dense: {fault}", stacklevel=2)
        return None
    return kept(_visible_mask, visible, layer, tokens, device)


@lru_cache(maxsize=128)
def _fault(visible: Callable[..., Any], layer: int, device: torch.device) -> str:
    """Return why a plug-in's mask cannot be asked for single pairs, as a kernel does; empty where it can."""
    try:
        create_mask(lambda batch, head, query, key: visible(query, key, layer, 0), None, None, 2, 2, device)
    except Exception as error:  # noqa: BLE001  # the plug-in's own code
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


def _visible_mask(visible: Callable[..., Any], layer: int, tokens: int, device: torch.device) -> BlockMask:
    size = BLOCK_SIZES["looked_up"]
    if layer and same_pairs(_of_layer(visible, 0), _of_layer(visible, layer), tokens, size, device):
        return kept(_visible_mask, visible, 0, tokens, device)
    return looked_up_mask(_of_layer(visible, layer), tokens, size, device)


def _of_layer(visible: Callable[..., Any], layer: int) -> Pairs:
    return lambda query, key: visible(query, key, layer, 0)


def _falling(slopes: Tensor) -> Callable[..., Tensor]:
    def score(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slopes[head] * (query - key)

    return score


def _tiled(mask: BlockMask, dtype: torch.dtype) -> tuple[BlockMask, dict[str, Any] | None]:
    """Return a mask and the options with which the kernel computes no more than a block of it at a time.

    For blocks from 128 on its own choices are right. Smaller ones must say 128 and have the options correct it: torch
    holds the tiles that it would choose, not those it is told, against the mask, and would find no backward pass.
    """
    size = mask.BLOCK_SIZE[0]
    if size >= 128:
        return mask, None
    # Tiles of float32 take twice the memory on the chip.
    short = size if dtype.itemsize < 4 else size // 2
    tiles = {"fwd_BLOCK_M": size, "fwd_BLOCK_N": short}
    tiles |= {f"bwd_BLOCK_{name}": short for name in ("M1", "N1", "M2", "N2")}
    # Short sequences would be given to the kernel for decoding, which has tiles of its own.
    options = {"SPARSE_Q_BLOCK_SIZE": size, "SPARSE_KV_BLOCK_SIZE": size, "FORCE_USE_FLEX_ATTENTION": True}
    told = BlockMask(
        seq_lengths=mask.seq_lengths,
        kv_num_blocks=mask.kv_num_blocks,
        kv_indices=mask.kv_indices,
        full_kv_num_blocks=mask.full_kv_num_blocks,
        full_kv_indices=mask.full_kv_indices,
        q_num_blocks=mask.q_num_blocks,
        q_indices=mask.q_indices,
        full_q_num_blocks=mask.full_q_num_blocks,
        full_q_indices=mask.full_q_indices,
        BLOCK_SIZE=(128, 128),
        mask_mod=mask.mask_mod,
    )
    return told, tiles | options


@lru_cache(maxsize=2)
def _compiled(long: bool) -> Callable[..., Any]:
    # Imported where it is needed: it takes seconds.
    import torch._dynamo

    options: Any = torch._dynamo.config
    options.recompile_limit = max(options.recompile_limit, _KERNELS)
    options.accumulated_recompile_limit = max(options.accumulated_recompile_limit, 4 * _KERNELS)
    return torch.compile(flex_attention, dynamic=False if long else None)
