"""FLOPs as a variant states them, held against the products that torch is given to do."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase

_TRAINED = 1024
"""Tokens on which attention without a softmax is counted: many chunks, so that the first and last weigh little."""

_FACTOR = 1.25
"""Factor by which a statement of attention without a softmax may be off: ends of the sequence, and rounding up."""

_STEP = 2.5
"""Factor by which a statement of a decoding step may be off: fused kernels pad heads of 9 features to 16."""


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of a forward pass.

    Attributes:
        products: of all matrix products.
        linear: those of linear layers among them.
        visible: all products, but of those between tokens only the triangle that causality leaves.
        elementwise: multiplications and divisions outside of products, one for each number that comes out.
    """

    products: int
    linear: int
    visible: int
    elementwise: int


def flops(case: Case) -> Measurement:
    """FLOPs as stated, against those that torch counts.

    With a softmax, the naive form is counted at two lengths: its linear part must be the projections, and its
    quadratic part the whole square, of which `flops` charges the visible pairs. Without one, linear layers are counted
    for the projections, and `dense_flops` must charge the other products. `flops` may charge what causality leaves of
    those, half of a square between tokens; or one step of decoding for each token, which has a check of its own. Work
    element by element may be charged or not.
    """
    if case.softmax:
        worst = WorstCase("projections and the whole square are counted as stated, and the visible part of it charged")
        for flags, backbone in case.backbones():
            _quadratic(worst, backbone.on(flash=False), flags)
        return worst.measurement()
    worst = WorstCase("projections are as stated, and attention as counted or as in decoding (factor off, less 1)")
    for flags, backbone in case.backbones():
        tokens = min(_TRAINED, backbone.shape.block_size)
        counted, config, shape = _count(backbone, tokens), backbone.config, backbone.shape
        exact, dense = config.flops(shape, tokens), config.dense_flops(shape, tokens)
        where = f"{flags}, T={tokens}"
        worst.equal(counted.linear, exact.projections, f"{where}: FLOPs of the projections")
        worst.equal(counted.linear, dense.projections, f"{where}: FLOPs of the projections, dense convention")
        visible, whole = counted.visible - counted.linear, counted.products - counted.linear
        step = tokens * config.decode_flops(shape, tokens).attention
        off = min(_off(exact.attention, visible, visible + counted.elementwise), _off(exact.attention, step, step))
        text = f"{where}: flops() states {exact.attention:,} attention FLOPs, counted {visible:,}, in decoding {step:,}"
        worst.add(off - 1, _FACTOR - 1, text)
        text = f"{where}: dense_flops() states {dense.attention:,} attention FLOPs; {whole:,} are counted"
        worst.add(_off(dense.attention, whole, whole + counted.elementwise) - 1, _FACTOR - 1, text)
    return worst.measurement()


def decode_flops(case: Case) -> Measurement:
    """A decoding step takes what is stated, within a factor of 2.5 both ways, where nothing is hidden yet.

    Every weight is multiplied once. Behind that length, a step may do as much as attention to all tokens takes, for
    masks are cheaper to write than rings, and the statement must go on in proportion to the tokens that are seen.
    Making the keys and values of all tokens anew, as a cache of latents invites to, shows here.
    """
    worst = WorstCase("a decoding step multiplies what is stated, within a factor of 2.5 (factor off, less 1)")
    for flags, backbone in case.backbones():
        tokens = min(128, backbone.longest)
        open_to = min(tokens, backbone.reach - 1) if backbone.softmax and backbone.reach else tokens
        _step(worst, backbone, open_to, flags)
        if open_to < tokens:
            _step_beyond(worst, backbone, open_to, tokens, flags)
    return worst.measurement()


def _step(worst: WorstCase, case: Case, tokens: int, flags: str) -> None:
    counted, stated = _count(case, tokens, decoding=True), case.config.decode_flops(case.shape, tokens)
    weights = 2 * case.config.matmul_params(case.shape)
    where = f"{flags}, T={tokens}"
    if not counted.linear <= stated.projections <= max(weights, counted.linear):
        text = f"{where}: decode_flops() states {stated.projections:,} for the projections, {weights:,} by the weights"
        worst.add(abs(stated.projections - weights), 0, text)
    attention = max(0, counted.products - stated.projections)
    off = _off(stated.attention, attention, attention + counted.elementwise)
    text = f"{where}: {attention:,} attention FLOPs counted in a step, {stated.attention:,} stated by decode_flops()"
    worst.add(off - 1, _STEP - 1, text)


def _step_beyond(worst: WorstCase, case: Case, open_to: int, tokens: int, flags: str) -> None:
    config, shape = case.config, case.shape
    counted, stated = _count(case, tokens, decoding=True).products, config.decode_flops(shape, tokens)
    full = 2 * config.matmul_params(shape) + 2 * tokens * shape.n_head * config.pair_dim(shape)
    where = f"{flags}, T={tokens}: {counted:,} FLOPs counted in a step, {stated.total:,} stated"
    worst.add(counted / max(stated.total, full) - 1, _STEP - 1, where)
    seen = float(case.visible_by_head(torch.tensor([tokens - 1]), tokens).sum(2).double().mean())
    fair = config.decode_flops(shape, open_to).attention * seen / open_to
    text = (
        f"{flags}, T={tokens}: decode_flops() states {stated.attention:,} for {seen:.0f} visible keys, {fair:,.0f} fit"
    )
    worst.add(_off(stated.attention, fair, fair) - 1, _STEP - 1, text)


def _off(stated: float, low: float, high: float) -> float:
    """Return the factor by which a statement is outside of a range; 1 inside."""
    return max(1.0, low / max(stated, 1), stated / max(high, 1))


def _quadratic(worst: WorstCase, case: Case, flags: str) -> None:
    short, long = 16, 48
    config, shape = case.config, case.shape
    low, high = _count(case, short).products, _count(case, long).products
    # a T + b T^2, from two lengths
    square, remainder = divmod(high * short - low * long, short * long * (long - short))
    linear = (low - square * short**2) // short
    worst.add(remainder, 0, f"{flags}: the naive form's FLOPs are not a T + b T^2")
    widths = shape.n_head * config.pair_dim(shape)
    worst.equal(square, 2 * widths, f"{flags}: FLOPs per pair of tokens")
    for tokens in {short, long, min(case.tokens, 300), case.longest}:
        for name, stated, count in (
            ("flops", config.flops(shape, tokens), config.pairs(tokens)),
            ("dense_flops", config.dense_flops(shape, tokens), config.dense_pairs(tokens)),
        ):
            worst.equal(linear * tokens, stated.projections, f"{flags}, T={tokens}: projections in {name}")
            worst.equal(square * count, stated.attention, f"{flags}, T={tokens}: attention in {name}, {count:,} pairs")


def _count(case: Case, tokens: int, *, decoding: bool = False) -> FlopCount:
    """Count a forward pass; with `decoding` only that of the last token, the others being in the cache."""
    module, x = case.module(), case.inputs(1, tokens)
    cache = module.make_cache(1, tokens, dtype=x.dtype, device=x.device) if decoding else None
    counter, other = FlopCounterMode(display=False), _Operations(case)
    with torch.inference_mode(decoding), torch.no_grad():
        if cache is not None:
            module(x[:, :-1], cache)
            x = x[:, -1:]
        # Only the products of the MATH backend are counted; the CPU's fused kernel counts as nothing.
        with other, counter, sdpa_kernel(SDPBackend.MATH):
            module(x, cache)
    counts = counter.get_flop_counts()
    linear = [name for name, child in module.named_modules() if isinstance(child, torch.nn.Linear)]
    root = type(module).__name__
    products = counter.get_total_flops()
    in_linear = sum(sum(counts.get(f"{root}.{name}", {}).values()) for name in linear)
    return FlopCount(products, in_linear, products - other.hidden, other.elementwise)


class _Operations(TorchDispatchMode):
    """Watches for products between tokens, of which a causal layer needs the triangle, and other multiplications.

    A product is one between tokens where its output, or its first factor, is a square wider than any head.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.hidden, self.elementwise = 0, 0
        config, shape = case.config, case.shape
        self._widest = 1 + max(shape.head_dim, config.qk_dim(shape), config.v_dim(shape))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("bmm", "baddbmm"):
            left, right = args[-2], args[-1]
            rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
            size = rows if rows in (inner, columns) else 0
            if size > self._widest:
                self.hidden += left.shape[0] * 2 * rows * inner * columns * (size - 1) // (2 * size)
        elif name in ("mul", "div", "addcmul"):
            self.elementwise += out.numel()
        return out
