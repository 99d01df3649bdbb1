"""Causal linear attention as Triton kernels: chunks of C tokens within segments of several chunks.

A program owns one segment of one head. It walks over its chunks with the state in registers, so that what is as long as
the sequence is read once and the state reaches memory once a segment. `key_sums` adds up each segment alone,
`accumulate` the segments before each, and `attend` computes the outputs from there. Backward, the first two run once
more, for `query_gradients`; then `query_sums` does for queries and incoming gradients what `key_sums` does for keys and
values, `accumulate` runs from the end, and `key_gradients` follows. No two programs write to one place: results are the
same in every run.

Numbers. Products take operands of OPERAND and add up in float32. With bfloat16 the state, which is float32, enters as
the sum of two bfloat16 numbers, 16 bits, at the price of one product in TF32, which has 11. float16 is multiplied in
TF32 instead: scores and denominators pass its largest number, and TF32 keeps all of its digits, as bfloat16 would not.
What is divided by the denominator enters products undivided wherever it can, (dy v - dy y) / d rather than (dy / d) v:
the difference cancels, and dy and v are exact.

Legend: BD and BV are D and DV, the widths of keys and of values, padded to powers of two from 16 on; a segment's memory
is its state (BD, BV) and, with NORMALIZE, the sum of its features (BD,) behind it. MAP names a feature map. Tensors
with strides are (B, H, T, width); outputs and gradients lie in memory as (B, T, H, width), rows of numbers as
(B, H, T).
"""

# Triton reads annotations its own way: arguments of its functions are pointers and numbers.
# ruff: noqa: ANN001, ANN201
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton.language as tl
from triton import jit

from vgpt.attention.linear.tiles import (
    absorb,
    causal,
    dot,
    dot_state,
    empty_memory,
    fading,
    load,
    load_features,
    load_memory,
    memory_place,
    own_segment,
    row_places,
    store,
    store_memory,
    through,
)

OPERANDS = {"bfloat16": tl.bfloat16, "float16": tl.float32}
"""What products take, by the type of the inputs."""


@jit(do_not_specialize=["T", "segments", "chunks"])
def key_sums(
    k, v, slopes, memory, k_b, k_h, k_t, k_d, v_b, v_h, v_t, v_d, H, T, segments, chunks,
    MAP: tl.constexpr, NORMALIZE: tl.constexpr, DECAY: tl.constexpr, OPERAND: tl.constexpr, SIZE: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Sum up phi(k) v^T and phi(k) of each segment but the last."""
    b, h, segment = own_segment(H, segments - 1)
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    _, leaving, over = fading(slopes, h, DECAY, C)
    ones = tl.full((C,), 1.0, tl.float32)
    state, total = empty_memory(BD, BV)
    for chunk in range(segment * chunks, (segment + 1) * chunks):
        first = chunk * C
        keys = load_features(k, k_t, k_d, first, T, MAP, C, D, BD) * leaving[:, None]
        values = load(v, v_t, v_d, first, T, C, DV, BV)
        state, total = absorb(state, total, keys, values, ones, over, NORMALIZE, OPERAND)
    store_memory(memory + memory_place(b, h, H, segment, segments, SIZE), state, total, NORMALIZE, BD, BV)


@jit(do_not_specialize=["steps", "tokens"])
def accumulate(
    memory, slopes, H, steps, tokens,
    BACKWARD: tl.constexpr, DECAY: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace each of the `steps` memories of a head by the sum of all up to it, or from it on, over `tokens` each."""
    blocks = tl.cdiv(SIZE, BLOCK)
    head, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    over = 1.0
    if DECAY:
        over = tl.exp(-tl.load(slopes + head % H) * tokens)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(steps):
        at = steps - 1 - step if BACKWARD else step
        place = memory + (head.to(tl.int64) * steps + at) * SIZE + columns
        total = total * over + tl.load(place, columns < SIZE, other=0.0)
        tl.store(place, total, columns < SIZE)


@jit(do_not_specialize=["T", "segments", "chunks"])
def attend(
    q, k, v, slopes, memory, y, divisors,
    q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, v_b, v_h, v_t, v_d, H, T, segments, chunks, eps,
    MAP: tl.constexpr, NORMALIZE: tl.constexpr, DECAY: tl.constexpr, OPERAND: tl.constexpr, SIZE: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Compute the outputs of a segment, and their denominators."""
    b, h, segment = own_segment(H, segments)
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    position = tl.arange(0, C)
    entering, leaving, over = fading(slopes, h, DECAY, C)
    ones = tl.full((C,), 1.0, tl.float32)
    state, total = empty_memory(BD, BV)
    if segment > 0:
        state, total = load_memory(memory + memory_place(b, h, H, segment - 1, segments, SIZE), NORMALIZE, BD, BV)
    for chunk in range(segment * chunks, tl.minimum((segment + 1) * chunks, tl.cdiv(T, C))):
        first = chunk * C
        queries = load_features(q, q_t, q_d, first, T, MAP, C, D, BD)
        keys = load_features(k, k_t, k_d, first, T, MAP, C, D, BD)
        values = load(v, v_t, v_d, first, T, C, DV, BV)
        weights = dot(queries, tl.trans(keys.to(OPERAND)), OPERAND)
        weights = causal(weights, slopes, h, position[:, None], position[None, :], DECAY)
        coming = (queries * entering[:, None]).to(OPERAND)
        out = dot(weights, values, OPERAND) + dot_state(coming, state, OPERAND)
        if NORMALIZE:
            divisor = tl.sum(weights, 1) + tl.sum(coming.to(tl.float32) * total[None, :], 1) + eps
            out = out / divisor[:, None]
            tl.store(divisors + row_places(b, h, H, first, T, C), divisor, first + position < T)
        store(y, b, h, H, out, first, T, C, DV, BV)
        state, total = absorb(state, total, keys * leaving[:, None], values, ones, over, NORMALIZE, OPERAND)


@jit(do_not_specialize=["T", "segments", "chunks"])
def query_gradients(
    q, k, v, grad, slopes, divisors, deltas, memory, d_q,
    q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, v_b, v_h, v_t, v_d, g_b, g_h, g_t, g_d, H, T, segments, chunks,
    MAP: tl.constexpr, NORMALIZE: tl.constexpr, DECAY: tl.constexpr, OPERAND: tl.constexpr, SIZE: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a segment's queries, from the first chunk on, with the state of keys and values.

    And dy y, from the products that make up y: what cancels against it is then rounded as it is.
    """
    b, h, segment = own_segment(H, segments)
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    grad += b.to(tl.int64) * g_b + h.to(tl.int64) * g_h
    position = tl.arange(0, C)
    entering, leaving, over = fading(slopes, h, DECAY, C)
    ones = tl.full((C,), 1.0, tl.float32)
    state, total = empty_memory(BD, BV)
    if segment > 0:
        state, total = load_memory(memory + memory_place(b, h, H, segment - 1, segments, SIZE), NORMALIZE, BD, BV)
    for chunk in range(segment * chunks, tl.minimum((segment + 1) * chunks, tl.cdiv(T, C))):
        first = chunk * C
        queries = load_features(q, q_t, q_d, first, T, MAP, C, D, BD)
        keys = load_features(k, k_t, k_d, first, T, MAP, C, D, BD)
        values = load(v, v_t, v_d, first, T, C, DV, BV)
        d_y = load(grad, g_t, g_d, first, T, C, DV, BV)
        d_weights = dot(d_y, tl.trans(values), OPERAND)
        d_queries = dot_state(d_y, tl.trans(state), OPERAND)
        scale = ones
        if NORMALIZE:
            places = row_places(b, h, H, first, T, C)
            scale = 1 / tl.load(divisors + places, first + position < T, other=1.0)
            weights = dot(queries, tl.trans(keys.to(OPERAND)), OPERAND)
            weights = causal(weights, slopes, h, position[:, None], position[None, :], DECAY)
            coming = (queries * entering[:, None]).to(OPERAND).to(tl.float32)
            delta = (tl.sum(weights * d_weights, 1) + tl.sum(coming * d_queries, 1)) * scale
            tl.store(deltas + places, delta, first + position < T)
            d_weights -= delta[:, None]
            d_queries -= delta[:, None] * total[None, :]
        d_weights = causal(d_weights, slopes, h, position[:, None], position[None, :], DECAY) * scale[:, None]
        d_queries = d_queries * (entering * scale)[:, None] + dot(d_weights, keys, OPERAND)
        store(d_q, b, h, H, through(queries, d_queries, MAP), first, T, C, D, BD)
        state, total = absorb(state, total, keys * leaving[:, None], values, ones, over, NORMALIZE, OPERAND)


@jit(do_not_specialize=["T", "segments", "chunks"])
def query_sums(
    q, grad, slopes, divisors, deltas, memory,
    q_b, q_h, q_t, q_d, g_b, g_h, g_t, g_d, H, T, segments, chunks,
    MAP: tl.constexpr, NORMALIZE: tl.constexpr, DECAY: tl.constexpr, OPERAND: tl.constexpr, SIZE: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Sum up what each segment but the first gives to the gradient of the state before it."""
    b, h, segment = own_segment(H, segments - 1)
    segment += 1
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    grad += b.to(tl.int64) * g_b + h.to(tl.int64) * g_h
    position = tl.arange(0, C)
    entering, _, over = fading(slopes, h, DECAY, C)
    delta = tl.zeros((C,), tl.float32)
    state, total = empty_memory(BD, BV)
    start, end = segment * chunks, tl.minimum((segment + 1) * chunks, tl.cdiv(T, C))
    for step in range(end - start):
        first = (end - 1 - step) * C
        d_y = load(grad, g_t, g_d, first, T, C, DV, BV)
        weights = entering
        if NORMALIZE:
            places = row_places(b, h, H, first, T, C)
            delta = tl.load(deltas + places, first + position < T, other=0.0)
            weights = entering / tl.load(divisors + places, first + position < T, other=1.0)
        queries = load_features(q, q_t, q_d, first, T, MAP, C, D, BD) * weights[:, None]
        state, total = absorb(state, total, queries, d_y, -delta, over, NORMALIZE, OPERAND)
    store_memory(memory + memory_place(b, h, H, segment - 1, segments, SIZE), state, total, NORMALIZE, BD, BV)


@jit(do_not_specialize=["T", "segments", "chunks"])
def key_gradients(
    q, k, v, grad, slopes, divisors, deltas, memory, d_k, d_v,
    q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, v_b, v_h, v_t, v_d, g_b, g_h, g_t, g_d, H, T, segments, chunks,
    MAP: tl.constexpr, NORMALIZE: tl.constexpr, DECAY: tl.constexpr, OPERAND: tl.constexpr, SIZE: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a segment's keys and values, from the last chunk on, with the gradient of the state."""
    b, h, segment = own_segment(H, segments)
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    grad += b.to(tl.int64) * g_b + h.to(tl.int64) * g_h
    position = tl.arange(0, C)
    entering, leaving, over = fading(slopes, h, DECAY, C)
    scale, delta = tl.full((C,), 1.0, tl.float32), tl.zeros((C,), tl.float32)
    state, total = empty_memory(BD, BV)
    if segment < segments - 1:
        state, total = load_memory(memory + memory_place(b, h, H, segment, segments, SIZE), NORMALIZE, BD, BV)
    start, end = segment * chunks, tl.minimum((segment + 1) * chunks, tl.cdiv(T, C))
    for step in range(end - start):
        first = (end - 1 - step) * C
        queries = load_features(q, q_t, q_d, first, T, MAP, C, D, BD)
        keys = load_features(k, k_t, k_d, first, T, MAP, C, D, BD)
        values = load(v, v_t, v_d, first, T, C, DV, BV)
        d_y = load(grad, g_t, g_d, first, T, C, DV, BV)
        if NORMALIZE:
            places = row_places(b, h, H, first, T, C)
            delta = tl.load(deltas + places, first + position < T, other=0.0)
            scale = 1 / tl.load(divisors + places, first + position < T, other=1.0)
        # Rows are keys here, columns queries.
        weights = dot(keys, tl.trans(queries.to(OPERAND)), OPERAND)
        weights = causal(weights, slopes, h, position[None, :], position[:, None], DECAY) * scale[None, :]
        d_values = dot(weights, d_y, OPERAND) + dot_state(keys * leaving[:, None], state, OPERAND)
        store(d_v, b, h, H, d_values, first, T, C, DV, BV)
        d_weights = dot(values, tl.trans(d_y), OPERAND) - delta[None, :]
        d_weights = causal(d_weights, slopes, h, position[None, :], position[:, None], DECAY) * scale[None, :]
        d_keys = (dot_state(values, tl.trans(state), OPERAND) + total[None, :]) * leaving[:, None]
        d_keys += dot(d_weights, queries, OPERAND)
        store(d_k, b, h, H, through(keys, d_keys, MAP), first, T, C, D, BD)
        coming = queries * (entering * scale)[:, None]
        state, total = absorb(state, total, coming, d_y, -delta, over, NORMALIZE, OPERAND)
