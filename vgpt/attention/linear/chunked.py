"""Causal linear attention in O(T): products inside chunks of tokens, and a state that carries what was before.

Sources: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 10-12; in chunks, Yang et al. 2024 (arXiv 2312.06635),
section 4; with decay, Sun et al. 2023 (arXiv 2307.08621), equation 7.
"""

import torch
from torch import Tensor


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
    q, k, v = (x.reshape(B, H, N, chunk, x.shape[-1]) for x in (q, k, v))
    scores = q @ k.mT  # (B, H, N, chunk, chunk)
    if log_decay is None:
        scores, arriving, leaving = scores.tril(), q, k
    else:
        place = torch.arange(chunk, device=q.device)
        rates = log_decay.view(H, 1, 1, 1)
        distance = (place[:, None] - place[None, :]).clamp(min=0)
        scores = (scores * (rates * distance).exp()).tril()
        arriving = q * (rates * (place[:, None] + 1)).exp()
        leaving = k * (rates * (chunk - 1 - place[:, None])).exp()
    y = scores @ v
    if N == 1 and state is None:
        return y.view(B, H, T, c), (leaving.mT @ v)[:, :, 0]
    gained = leaving.mT @ v  # (B, H, N, m, c): what each chunk adds to the state
    before, last = _carried(gained, state, None if log_decay is None else log_decay * chunk)
    return (y + arriving @ before).view(B, H, T, c), last


def _carried(gained: Tensor, state: Tensor | None, log_decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, (B, H, N, m, c), and after the last one, (B, H, m, c)."""
    B, H, N, m, c = gained.shape
    first = gained.new_zeros(B, H, 1, m, c) if state is None else state[:, :, None]
    if log_decay is None:
        sums = torch.cat((first, gained), 2).cumsum(2)
        return sums[:, :, :-1], sums[:, :, -1]
    # The few chunks' sums, each with its own decay, are one product with a small triangular matrix.
    place = torch.arange(N + 1, device=gained.device)
    weights = (log_decay.view(H, 1, 1) * (place[:, None] - place[None, :]).clamp(min=0)).exp().tril()
    sums = (weights @ torch.cat((first, gained), 2).flatten(3)).view(B, H, N + 1, m, c)
    return sums[:, :, :-1], sums[:, :, -1]
