"""Rotary positions: Su et al. 2021, arXiv 2104.09864, section 3.2.2, in the half-split layout that Llama's weights use.

Feature i and feature i + D/2 form one rotated pair.
"""

import torch
from torch import Tensor

from vgpt.attention.kernels.tables import KeptTables

_SMALLEST = 256
_tables = KeptTables()


def rotary_tables(start: int, tokens: int, width: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (tokens, width / 2) in float32 for the positions from `start` on.

    Tables are kept per device and grow by doubling, so that all layers and steps share them.
    """
    end = start + tokens
    if torch.compiler.is_compiling():
        return _compute(start, end, width, base, device)
    capacity = max(_SMALLEST, 1 << (end - 1).bit_length())
    cos, sin = _tables(_compute, 0, capacity, width, base, device)
    return cos[start:end], sin[start:end]


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, T, heads, D) by tables (T, D / 2), computed in float32 or wider and returned in the type of x."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)


def _compute(start: int, end: int, width: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.arange(start, end, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()
