"""What the kernels of linear attention do with tiles: load, map, weigh, multiply, store. The legend is theirs."""

# Triton reads annotations its own way: arguments of its functions are pointers and numbers.
# ruff: noqa: ANN001, ANN201
# pyright: reportMissingImports=false, reportOperatorIssue=false

import triton.language as tl
from triton import jit


@jit
def features(x, MAP: tl.constexpr):
    """Map each number, in float32; not-a-number stays one."""
    x = x.to(tl.float32)
    if MAP == "elu1":
        x = tl.where(x > 0, x + 1, tl.exp(x))
    if MAP == "relu":
        x = tl.where(x < 0, 0.0, x)
    return x


@jit
def through(f, grad, MAP: tl.constexpr):
    """Return the gradient by x where f = features(x)."""
    if MAP == "elu1":
        grad *= tl.minimum(f, 1.0)
    if MAP == "relu":
        grad = tl.where(f > 0, grad, 0.0)
    return grad


@jit
def inside(first, T, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Say which numbers of a tile (C, BLOCK) exist."""
    mask = (first + tl.arange(0, C))[:, None] < T
    if WIDTH < BLOCK:
        mask = mask & (tl.arange(0, BLOCK)[None, :] < WIDTH)
    return mask


@jit
def load(base, stride_t, stride_d, first, T, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Load the tile (C, BLOCK) of tokens from `first` on, zeros where nothing is."""
    rows = (first + tl.arange(0, C)).to(tl.int64)[:, None]
    columns = tl.arange(0, BLOCK).to(tl.int64)[None, :]
    return tl.load(base + rows * stride_t + columns * stride_d, inside(first, T, C, WIDTH, BLOCK), other=0.0)


@jit
def load_features(
    base, stride_t, stride_d, first, T, MAP: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Load features likewise: zero where nothing is, though phi(0) may be 1."""
    f = features(load(base, stride_t, stride_d, first, T, C, WIDTH, BLOCK), MAP)
    if MAP == "elu1":
        f = tl.where(inside(first, T, C, WIDTH, BLOCK), f, 0.0)
    return f


@jit
def store(base, b, h, H, x, first, T, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Store a tile where head h of (B, T, H, WIDTH) has it."""
    rows = b.to(tl.int64) * T + first + tl.arange(0, C)
    place = (rows * H + h)[:, None] * WIDTH + tl.arange(0, BLOCK)[None, :]
    tl.store(base + place, x.to(base.dtype.element_ty), inside(first, T, C, WIDTH, BLOCK))


@jit
def row_places(b, h, H, first, T, C: tl.constexpr):
    """Return where (B, H, T) has the tokens from `first` on."""
    return (b.to(tl.int64) * H + h) * T + first + tl.arange(0, C)


@jit
def own_segment(H, segments):
    """Return batch, head and segment of this program; neighbors share tokens, whose heads are neighbors in memory."""
    program = tl.program_id(0)
    return program // H // segments, program % H, program // H % segments


@jit
def memory_place(b, h, H, segment, segments, SIZE: tl.constexpr):
    """Return where a segment's memory begins; the last segment (the first, backward) has none."""
    return ((b.to(tl.int64) * H + h) * (segments - 1) + segment) * SIZE


@jit
def empty_memory(BD: tl.constexpr, BV: tl.constexpr):
    """Return the state and the sum of features of no token."""
    return tl.zeros((BD, BV), tl.float32), tl.zeros((BD,), tl.float32)


@jit
def load_memory(base, NORMALIZE: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr):
    """Load both of a segment."""
    rows = tl.arange(0, BD)
    state = tl.load(base + rows[:, None] * BV + tl.arange(0, BV)[None, :])
    total = tl.zeros((BD,), tl.float32)
    if NORMALIZE:
        total = tl.load(base + BD * BV + rows)
    return state, total


@jit
def store_memory(base, state, total, NORMALIZE: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr):
    """Store both."""
    rows = tl.arange(0, BD)
    tl.store(base + rows[:, None] * BV + tl.arange(0, BV)[None, :], state)
    if NORMALIZE:
        tl.store(base + BD * BV + rows, total)


@jit
def fading(slopes, h, DECAY: tl.constexpr, C: tl.constexpr):
    """Return the weights of tokens as the chunk is entered and left (C,), and of a state over the chunk."""
    rows = tl.arange(0, C)
    entering, leaving, over = tl.full((C,), 1.0, tl.float32), tl.full((C,), 1.0, tl.float32), 1.0
    if DECAY:
        rate = tl.load(slopes + h)
        entering = tl.exp(-rate * (rows + 1))
        leaving = tl.exp(-rate * (C - 1 - rows))
        over = tl.exp(-rate * C)
    return entering, leaving, over


@jit
def causal(scores, slopes, h, later, earlier, DECAY: tl.constexpr):
    """Weigh scores by the distance of a later token (a query) from an earlier one (a key); others become zero.

    Cut before weighing, so that a score of infinity does not come back as not-a-number.
    """
    scores = tl.where(later >= earlier, scores, 0.0)
    if DECAY:
        scores *= tl.exp(-tl.load(slopes + h) * tl.maximum(later - earlier, 0))
    return scores


@jit
def dot(a, b, OPERAND: tl.constexpr):
    """Multiply in OPERAND, add up in float32."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision="tf32")


@jit
def dot_state(a, state, OPERAND: tl.constexpr):
    """Multiply by a float32 state, of which bfloat16 takes a coarse and a fine part."""
    if OPERAND == tl.bfloat16:  # noqa: SIM300
        coarse = state.to(OPERAND)
        fine = (state - coarse.to(tl.float32)).to(OPERAND)
        product = tl.dot(a.to(OPERAND), coarse, tl.dot(a.to(OPERAND), fine))
    else:
        product = tl.dot(a.to(OPERAND), state, input_precision="tf32")
    return product


@jit
def absorb(state, total, f, rows, weights, over, NORMALIZE: tl.constexpr, OPERAND: tl.constexpr):
    """Return a memory that has also taken in a chunk of features (C, BD) with rows (C, BV) and weights (C,).

    The sum of the features is of the very numbers that the product takes.
    """
    f = f.to(OPERAND)
    state = state * over + dot(tl.trans(f), rows, OPERAND)
    if NORMALIZE:
        total = total * over + tl.sum(f.to(tl.float32) * weights[:, None], 0)
    return state, total
