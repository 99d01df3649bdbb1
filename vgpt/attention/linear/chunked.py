"""Causal linear attention in O(T): products inside chunks of tokens, and a state that carries what was before.

Sources: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 10-12; in chunks, Yang et al. 2024 (arXiv 2312.06635),
section 4; with decay, Sun et al. 2023 (arXiv 2307.08621), equation 7.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, chunk: int, state: Tensor | None = None, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o_t = q_t S_t for S_t = g S_(t-1) + k_t^T v_t, and the last S; exact for every `chunk`.

    A column of ones in `v` becomes the sum of the weights, a denominator.

    Args:
        q: features of the queries (B, H, T, m).
        k: features of the keys (B, H, T, m).
        v: values (B, H, T, c).
        chunk: tokens that one product takes; T need not divide by it.
        state: S before the first token, (B, H, m, c); None for zeros.
        log_decay: (H,) logarithm of the factor g per token, at most 0; None for g = 1.

    Returns:
        (B, H, T, c) and the state (B, H, m, c) after the last token. All in the type of the inputs, which should be
        float32 or wider: sums over thousands of tokens do not fit anything smaller.
    """
    T = q.shape[2]
    whole = T - T % chunk
    parts: list[Tensor] = []
    if whole:
        y, state = _whole_chunks(q[:, :, :whole], k[:, :, :whole], v[:, :, :whole], chunk, state, log_decay)
        parts.append(y)
    if whole < T:
        y, state = _whole_chunks(q[:, :, whole:], k[:, :, whole:], v[:, :, whole:], T - whole, state, log_decay)
        parts.append(y)
    assert state is not None
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 2)), state


def recurrent_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Take one token, T = 1: the same as `chunked_linear_attention` by one product of rank one and one out of it."""
    if log_decay is not None:
        state = state * log_decay.exp().view(-1, 1, 1)
    state = state + k.mT * v
    return q @ state, state


def _whole_chunks(
    q: Tensor, k: Tensor, v: Tensor, chunk: int, state: Tensor | None, log_decay: Tensor | None
) -> tuple[Tensor, Tensor]:
    B, H, T, m = q.shape
    N, c = T // chunk, v.shape[-1]
    if state is None:
        state = q.new_zeros(B, H, m, c)
    if log_decay is None and not torch.compiler.is_compiling():
        y, last = _Chunks.apply(q, k, v, state, chunk)
        return y, last
    q, k, v = (x.reshape(B, H, N, chunk, x.shape[-1]) for x in (q, k, v))
    scores, arriving, leaving = q @ k.mT, q, k
    if log_decay is not None:
        place = torch.arange(chunk, device=q.device)
        rates = log_decay.view(H, 1, 1, 1)
        scores = scores * (rates * (place[:, None] - place[None, :]).clamp(min=0)).exp()
        arriving = q * (rates * (place[:, None] + 1)).exp()
        leaving = k * (rates * (chunk - 1 - place[:, None])).exp()
    gained = leaving.mT @ v  # (B, H, N, m, c): what each chunk adds to the state
    before, last = _carried(gained, state, None if log_decay is None else log_decay * chunk)
    return (scores.tril() @ v + arriving @ before).view(B, H, T, c), last


def _carried(gained: Tensor, state: Tensor, log_decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, (B, H, N, m, c), and after the last one, (B, H, m, c)."""
    B, H, N, m, c = gained.shape
    parts = torch.cat((state[:, :, None], gained), 2)
    if log_decay is None:
        sums = parts.cumsum(2)
    else:
        # The few chunks' sums, each with its own decay, are one product with a small triangular matrix.
        place = torch.arange(N + 1, device=gained.device)
        weights = (log_decay.view(H, 1, 1) * (place[:, None] - place[None, :]).clamp(min=0)).exp().tril()
        sums = (weights @ parts.flatten(3)).view(B, H, N + 1, m, c)
    return sums[:, :, :-1], sums[:, :, -1]


class _Chunks(torch.autograd.Function):
    """The form without decay with its gradients written out: every product once, and sums made in place.

    Inside, (sequence, head, chunk) are one dimension of n matrices.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Return (B, H, T, c) and the last state."""
        B, H, T, m = q.shape
        N, c = T // chunk, v.shape[-1]
        q, k, v = (x.reshape(B * H * N, chunk, x.shape[-1]) for x in (q, k, v))
        sums = q.new_empty(B * H, N + 1, m, c)
        sums[:, 0] = state.view(B * H, m, c)
        gained = torch.bmm(k.mT, v).view(B * H, N, m, c)
        for n in range(N):
            torch.add(sums[:, n], gained[:, n], out=sums[:, n + 1])
        before = sums[:, :-1].reshape(B * H * N, m, c)
        y = torch.bmm(torch.bmm(q, k.mT).tril_(), v).baddbmm_(q, before)
        ctx.save_for_backward(q, k, v, before)
        ctx.shape = (B, H, N, chunk)
        return y.view(B, H, T, c), sums[:, -1].reshape(B, H, m, c)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys, values and the first state."""
        grad, d_last = grad_outputs
        q, k, v, before = ctx.saved_tensors
        B, H, N, chunk = ctx.shape
        m, c = q.shape[-1], v.shape[-1]
        grad = grad.reshape(B * H * N, chunk, c)
        # The gradient of a state is the sum of what all later chunks ask of it.
        asked = torch.bmm(q.mT, grad).view(B * H, N, m, c)
        sums = grad.new_empty(B * H, N + 1, m, c)
        sums[:, N] = d_last.view(B * H, m, c)
        for n in reversed(range(N)):
            torch.add(sums[:, n + 1], asked[:, n], out=sums[:, n])
        after = sums[:, 1:].reshape(B * H * N, m, c)
        d_scores = torch.bmm(grad, v.mT).tril_()
        d_q = torch.bmm(d_scores, k).baddbmm_(grad, before.mT)
        d_k = torch.bmm(d_scores.mT, q).baddbmm_(v, after.mT)
        d_v = torch.bmm(torch.bmm(q, k.mT).tril_().mT, grad).baddbmm_(k, after)
        parts = (part.view(B, H, N * chunk, part.shape[-1]) for part in (d_q, d_k, d_v))
        return *parts, sums[:, 0].reshape(B, H, m, c), None
