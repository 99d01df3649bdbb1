"""Causal linear attention in O(T): quadratic inside chunks of tokens, through a state between them.

Speed relative to torch's fused causal softmax, forward and backward in float32 with 12 heads of 64 on one core of an
AMD EPYC, torch 2.13 (above 1 = faster; chunks of 64):

    T           128    256   1024   4096   8192
    sweep      0.77    1.2    3.2    9.4     18
    batched    0.58    1.0    2.5    5.4     10

Below some 200 tokens the sweep leaves the work to `vgpt.attention.linear.square`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.linear.compiled import compiled_sweep
from vgpt.attention.linear.decay import Decay
from vgpt.attention.linear.features import FEATURE_MAPS, FeatureMap
from vgpt.attention.linear.fused import fits, fused
from vgpt.attention.linear.sweep import DENOMINATOR_EPS, sweep


def chunked_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature_map: FeatureMap = FEATURE_MAPS["elu1"],
    slopes: Tensor | None = None,
    state: Tensor | None = None,
    chunk_size: int = 64,
    normalize: bool = True,
    keep_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Causal kernel attention, exact for every chunk size.

    With features phi, o_t = sum_j w_tj v_j / (sum_j w_tj + 1e-6) over j <= t, w_tj = phi(q_t) phi(k_j) exp(-m (t - j)).
    The denominator is one more column of the values that holds ones. All is computed in float32 (float64 where the
    queries are), whatever the type of the inputs: in float16 the denominator overflows after some 600 tokens, and a
    state in bfloat16 loses its digits. On NVIDIA GPUs inputs in bfloat16 or float16 go to kernels, where the operands
    of products inside a chunk are rounded, and sums and the state are not (vgpt.attention.linear.fused).

    Args:
        q: queries (B, H, T, D), before the feature map.
        k: keys (B, H, T, D), likewise.
        v: values (B, H, T, v).
        feature_map: phi, from D numbers to m features.
        slopes: (H,) rates m of forgetting; None for none. Not differentiated.
        state: what came before, (B, H, m, v + 1), or (B, H, m, v) without `normalize`: the sum of phi(k_j) v_j^T, the
            last token's with weight 1. None: nothing.
        chunk_size: tokens per chunk C; T need not be a multiple. Time per token grows as C + 2 m, so C near 64 is best,
            and with a wide feature map a larger one. Kernels choose their own.
        normalize: divide by the sum of the weights.
        keep_state: also return the state after the last token; where it is not needed, it is not computed.

    Returns:
        Outputs (B, H, T, v) in the type of v, and the state or None. Gradients flow through both.
    """
    with torch.autocast(q.device.type, enabled=False):
        if state is None and not keep_state and fits(q, k, v, feature_map):
            return fused(q, k, v, slopes, feature_map, normalize), None
        # A compiler fuses and schedules what it sees. Elsewhere, GPUs want few large products; but features much wider
        # than the heads would fill their memory.
        compiling = torch.compiler.is_compiling()
        if feature_map.expands or (q.device.type == "cpu" and not compiling):
            run = compiled_sweep if compiling else sweep
        else:
            run = batched
        return run(q, k, v, state, slopes, feature_map, chunk_size, normalize, keep_state)


def batched(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    slopes: Tensor | None,
    feature_map: FeatureMap,
    chunk_size: int,
    normalize: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute `chunked_linear_attention` on all n chunks at once; autograd records it, all features and states."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    T = q.shape[2]
    C = min(chunk_size, T)
    decay = Decay(slopes, dtype)
    values = F.pad(v.to(dtype), (0, 1), value=1.0) if normalize else v.to(dtype)
    queries, keys = (_chunks(feature_map.base(x.to(dtype)), C) for x in (q, k))  # (B, n, H, C, D)
    values = _chunks(values, C)
    y = decay.within(feature_map.kernel(queries @ keys.mT)) @ values
    n = y.shape[1]
    last: Tensor | None = None
    if n > 1 or state is not None or keep_state:
        # Padding stands behind the last token: the rest of the last chunk, which only the returned state depends on.
        rest = T - (n - 1) * C
        features = feature_map.expand(keys)
        added = decay.leaving(features[:, :-1]).mT @ values[:, :-1]
        first = added.new_zeros(added.shape[0], 1, *added.shape[2:]) if state is None else state.to(dtype)[:, None]
        before = _running_sum(torch.cat((first, added), 1), decay, C)  # (B, n, H, m, columns)
        y = y + decay.entering(feature_map.expand(queries)) @ before
        if keep_state:
            tail = decay.leaving(features[:, -1, :, :rest]).mT @ values[:, -1, :, :rest]
            last = decay.over(before[:, -1], rest) + tail
    y = y.transpose(1, 2).flatten(2, 3)[:, :, :T]
    if normalize:
        y = y[..., :-1] / (y[..., -1:] + DENOMINATOR_EPS)
    return y.to(v.dtype), last


def _chunks(x: Tensor, chunk_size: int) -> Tensor:
    """Cut (B, H, T, width) into (B, n, H, chunk_size, width), with zeros behind the end."""
    spare = -x.shape[2] % chunk_size
    return F.pad(x, (0, 0, 0, spare)).unflatten(2, (-1, chunk_size)).transpose(1, 2)


def _running_sum(states: Tensor, decay: Decay, chunk_size: int) -> Tensor:
    """Sum (B, n, H, m, columns) over the chunks up to each, weighed down by distance, in log2(n) steps."""
    if decay.slopes is None:
        return states.cumsum(1)
    step = 1
    while step < states.shape[1]:
        earlier = F.pad(states[:, :-step], (0, 0, 0, 0, 0, 0, step, 0))
        states = states + decay.over(earlier, step * chunk_size)
        step *= 2
    return states
