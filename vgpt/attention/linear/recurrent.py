"""Linear attention as a recurrent network: one token into the state and one output out of it."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from vgpt.attention.linear.features import FEATURE_MAPS, FeatureMap
from vgpt.attention.linear.sweep import DENOMINATOR_EPS


def recurrent_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    feature_map: FeatureMap,
    slopes: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Add one token to a state, in place, and read it: Katharopoulos et al. 2020, equations 18-20.

    Args:
        q: query (B, H, 1, D), before the feature map.
        k: key (B, H, 1, D), likewise.
        v: value (B, H, 1, v).
        state: (B, H, m, v + 1), or (B, H, m, v) without `normalize`; float32 or wider.
        feature_map: from D numbers to m features.
        slopes: (H,) rates of forgetting.
        normalize: divide by the sum of the weights.

    Returns:
        (B, H, 1, v) in the type of v.
    """
    dtype = state.dtype
    query, key = (feature_map.expand(feature_map.base(x.to(dtype))) for x in (q, k))
    value = v.to(dtype)
    if normalize:
        value = torch.cat((value, torch.ones_like(value[..., :1])), -1)
    if slopes is not None:
        state.mul_(torch.exp(-slopes.to(dtype)).view(-1, 1, 1))
    state.addcmul_(key.mT, value)
    y = query @ state
    return ((y[..., :-1] / (y[..., -1:] + DENOMINATOR_EPS)) if normalize else y).to(v.dtype)


def fused_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    feature_map: FeatureMap,
    slopes: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Do as `recurrent_step`, in one kernel where a GPU has it: which no FLOP counter sees."""
    name = next((name for name, known in FEATURE_MAPS.items() if known is feature_map and not known.expands), "")
    if not name or not state.is_cuda or state.dtype is not torch.float32 or not _has_triton():
        return recurrent_step(q, k, v, state, feature_map=feature_map, slopes=slopes, normalize=normalize)
    from vgpt.attention.linear.step_kernel import recurrent_kernel

    return recurrent_kernel(q, k, v, state, feature_map=name, slopes=slopes, normalize=normalize)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
