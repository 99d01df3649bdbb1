"""The formula of linear attention over the whole square: what `--no-flash` asks for."""

import torch
from torch import Tensor

from vgpt.attention.linear.features import FeatureMap
from vgpt.attention.linear.sweep import DENOMINATOR_EPS


def quadratic_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature_map: FeatureMap,
    slopes: Tensor | None = None,
    state: Tensor | None = None,
    normalize: bool = True,
    keep_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute `vgpt.attention.linear.chunked.chunked_linear_attention` from all features and all T^2 weights."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    queries, keys = (feature_map.expand(feature_map.base(x.to(dtype))) for x in (q, k))
    values = torch.cat((v.to(dtype), torch.ones_like(v[..., :1], dtype=dtype)), -1) if normalize else v.to(dtype)
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position
    rate = q.new_zeros(1, 1, 1, dtype=dtype) if slopes is None else slopes.to(dtype).view(-1, 1, 1)
    weights = (queries @ keys.mT) * torch.exp(-rate * distance.clamp(min=0))
    y = weights.masked_fill(distance < 0, 0) @ values
    last = None
    if state is not None:
        y = y + torch.exp(-rate * (1 + position)[:, None]) * (queries @ state.to(dtype))
    if keep_state:
        last = (keys * torch.exp(-rate * (position[-1] - position)[:, None])).mT @ values
        if state is not None:
            last = last + torch.exp(-rate * len(position)) * state.to(dtype)
    if normalize:
        y = y[..., :-1] / (y[..., -1:] + DENOMINATOR_EPS)
    return y.to(v.dtype), last
