"""A decoding step of linear attention on a GPU as one kernel: state and output of a head in one pass over the state.

As separate operations it is twenty kernels, each of which takes longer to start than to run. Needs Triton, which torch
brings along on Linux.
"""

# Triton reads annotations its own way: arguments of its functions are pointers and numbers.
# ruff: noqa: ANN001, ANN202
# Triton states types of what its functions return that its own operators do not take.
# pyright: reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vgpt.attention.linear.sweep import DENOMINATOR_EPS

MAPS = {"identity": 0, "relu": 1, "elu1": 2}
"""Feature maps that the kernel knows: those with as many features as there are numbers."""

_COLUMNS = 32


def recurrent_kernel(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, feature_map: str, slopes: Tensor | None, normalize: bool
) -> Tensor:
    """Add one token to a state, in place, and read it, as `recurrent_step`.

    Args:
        q: query (B, H, 1, D), before the feature map.
        k: key (B, H, 1, D), likewise.
        v: value (B, H, 1, v).
        state: (B, H, D, v + 1), or (B, H, D, v) without `normalize`; float32.
        feature_map: one of `MAPS`.
        slopes: (H,) rates of forgetting, float32.
        normalize: divide by the sum of the weights.

    Returns:
        (B, H, 1, v) in the type of v; the heads of one sequence lie side by side.
    """
    B, H, _, D = q.shape
    V = v.shape[-1]
    out = torch.empty(B, 1, H, V, dtype=v.dtype, device=v.device)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    parts = {"q": q, "k": k, "v": v, "state": state}
    strides = {f"{name}_{of}": part.stride(i) for name, part in parts.items() for i, of in enumerate(("batch", "head"))}
    launch: dict[str, Any] = {
        **strides,
        "state_row": state.stride(2),
        "D": D,
        "V": V,
        "MAP": MAPS[feature_map],
        "FORGETS": slopes is not None,
        "NORMALIZE": normalize,
        "ROWS": triton.next_power_of_2(D),
        "COLUMNS": min(_COLUMNS, triton.next_power_of_2(V)),
        "EPS": DENOMINATOR_EPS,
    }
    rates = state if slopes is None else slopes  # a pointer that is not read
    with torch.cuda.device_of(state):  # a kernel starts on the current device, wherever its tensors are
        _recurrent[(B, H)](q, k, v, state, rates, out, **launch)
    return out.transpose(1, 2)


@triton.jit
def _features(x, MAP: tl.constexpr):
    if MAP == 0:
        return x
    if MAP == 1:
        return tl.maximum(x, 0.0)
    return tl.maximum(x, 0.0) + tl.exp(tl.minimum(x, 0.0))


@triton.jit
def _recurrent(
    q,
    k,
    v,
    state,
    slopes,
    out,
    q_batch,
    q_head,
    k_batch,
    k_head,
    v_batch,
    v_head,
    state_batch,
    state_head,
    state_row,
    D: tl.constexpr,
    V: tl.constexpr,
    MAP: tl.constexpr,
    FORGETS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EPS: tl.constexpr,
) -> None:
    """One head of one sequence: the state a few columns at a time, the column of the denominator first."""
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.arange(0, ROWS)
    there = rows < D
    query = _features(tl.load(q + batch * q_batch + head * q_head + rows, mask=there, other=0.0).to(tl.float32), MAP)
    key = _features(tl.load(k + batch * k_batch + head * k_head + rows, mask=there, other=0.0).to(tl.float32), MAP)
    # A map may make something of the zeros that fill up.
    query, key = tl.where(there, query, 0.0), tl.where(there, key, 0.0)
    kept = 1.0
    if FORGETS:
        kept = tl.exp(-tl.load(slopes + head).to(tl.float32))
    state += batch * state_batch + head * state_head + rows * state_row
    v += batch * v_batch + head * v_head
    out += (batch * tl.num_programs(1) + head) * V
    below = 1.0
    if NORMALIZE:
        sums = kept * tl.load(state + V, mask=there, other=0.0) + key
        tl.store(state + V, sums, mask=there)
        below = tl.sum(query * sums, 0) + EPS
    for start in range(0, V, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        value = tl.load(v + column, mask=column < V, other=0.0).to(tl.float32)
        places = state[:, None] + column[None, :]
        real = there[:, None] & (column < V)[None, :]
        now = kept * tl.load(places, mask=real, other=0.0) + key[:, None] * value[None, :]
        tl.store(places, now, mask=real)
        above = tl.sum(query[:, None] * now, 0)
        tl.store(out + column, (above / below).to(out.dtype.element_ty), mask=column < V)
