"""Right numbers: fast paths against the plain formula, low precision near full, and no overflow at the edges."""

from math import inf, isnan

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, count_nonfinite, relative_error

_LENGTHS = (1, 2, 63, 64, 100, 257)
_LONG = 4096
_STRETCHES = 8
_WIDE = 64
"""Head width of real models, at which float16 overflows where it overflows in them."""


def fast_is_naive(case: Case) -> Measurement:
    """The fused path gives the outputs and all gradients of the naive formula."""
    worst = WorstCase("fused path and --no-flash give the same outputs and gradients (largest difference)")
    lengths = sorted({n for n in (*_LENGTHS, case.tokens) if n <= case.longest})
    for dtype, limit in case.precisions:
        for flags, backbone in case.backbones():
            some = lengths if backbone == case else (5, min(200, case.longest))
            for tokens in some:
                _compare(worst, backbone, tokens, dtype, limit, f"{flags}, {dtype}, T={tokens}")
    if worst.measured == 0:
        worst.claim = "--no-flash computes the very same: there is one path, and nothing to compare it with"
    return worst.measurement()


def finite_at_extremes(case: Case) -> Measurement:
    """Outputs and gradients are finite for tiny, large, equal and zero inputs, long sequences, bfloat16 and float16."""
    worst = WorstCase("outputs and gradients are finite for tiny, large, equal and zero inputs (numbers that are not)")
    tokens = min(512, case.shape.block_size)
    backbones = list(case.backbones())
    for flags, backbone in [backbones[0], backbones[-1]] if len(backbones) > 1 else backbones:
        x = backbone.inputs(1, tokens)
        extremes = {
            "inputs * 0.001": 1e-3 * x,
            "inputs * 30": 30 * x,
            "equal inputs": x[:, :1].expand_as(x),
            "zero inputs": torch.zeros_like(x),
        }
        for name, values in extremes.items():
            for autocast in (False, True):
                found = _broken_in_training(backbone.module(), values, autocast=autocast)
                worst.add(found, 0, f"{flags}: {name}, T={tokens}{', bfloat16 autocast' if autocast else ''}")
        for dtype in (torch.bfloat16, torch.float16):
            with torch.no_grad():
                found = count_nonfinite(backbone.module(dtype)(x.to(dtype)))
            worst.add(found, 0, f"{flags}: {dtype}, T={tokens}")
    long = min(_LONG, case.shape.block_size)
    found = _broken_in_training(case.module(), case.inputs(1, long), autocast=True)
    worst.add(found, 0, f"T={long}, bfloat16 autocast")
    return worst.measurement()


def low_precision(case: Case) -> Measurement:
    """bfloat16 and float16 are near float64: overflow and lost digits show as wrong numbers, where none is missing."""
    worst = WorstCase("low precision stays near float64, on long sequences and wide heads too (relative error)")
    wide = case.on(n_embd=_WIDE * case.shape.n_head)
    wide = case if wide.config.check(wide.shape) else wide
    for name, backbone, most in (("wide heads", wide, 1024), ("long sequence", case, _LONG)):
        tokens = min(most, backbone.shape.block_size)
        x = backbone.inputs(1, tokens)
        with torch.no_grad():
            exact = backbone.module(torch.float64)(x.double())
            for dtype, limit in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
                where = f"{name}, T={tokens}, {dtype}"
                worst.add(_relative(backbone.module(dtype)(x.to(dtype)), exact), limit, where)
                with torch.autocast(backbone.device, dtype):
                    worst.add(_relative(backbone.module()(x), exact), limit, f"{where} autocast")
        if backbone is wide:
            _compare_decoding(worst, backbone, x, exact)
    return worst.measurement()


def _compare(worst: WorstCase, case: Case, tokens: int, dtype: torch.dtype, limit: float, where: str) -> None:
    one, other = (_outputs_and_gradients(backbone, tokens, dtype) for backbone in (case, case.on(flash=False)))
    for (name, fast), (_, naive) in zip(one, other, strict=True):
        worst.add(relative_error(fast, naive), limit, f"{where}: {name}")


def _outputs_and_gradients(case: Case, tokens: int, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    module, x = case.module(dtype), case.inputs(2, tokens, dtype).requires_grad_()
    y = module(x)
    names = ["input", *(name for name, _ in module.named_parameters())]
    weights = case.inputs(2, tokens, dtype, salt="weights")
    grads = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()], materialize_grads=True)
    return [("output", y.detach()), *((f"gradient of {name}", g) for name, g in zip(names, grads, strict=True))]


def _broken_in_training(module: CausalSelfAttention, x: Tensor, *, autocast: bool) -> int:
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        y = module(x)
    grads = torch.autograd.grad(y.float().square().mean(), [x, *module.parameters()], materialize_grads=True)
    return count_nonfinite(y, *grads)


def _compare_decoding(worst: WorstCase, case: Case, x: Tensor, exact: Tensor) -> None:
    """Decode the end of a long sequence with everything in low precision, as generation does."""
    for dtype, limit in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
        module = case.module(dtype)
        cache = module.make_cache(1, x.shape[1], dtype=dtype, device=case.device)
        with torch.inference_mode():
            chunks = x.to(dtype).split([x.shape[1] - 8, *[1] * 8], 1)
            got = torch.cat([module(chunk, cache) for chunk in chunks], 1)
        worst.add(_relative(got[:, -8:], exact[:, -8:]), limit, f"wide heads, {dtype}, decoding at T={x.shape[1]}")


def _relative(got: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the error relative to that of the outputs, in the worst stretch of tokens.

    Single outputs may be off by more: where a feature map leaves a token next to nothing to look at, digits are lost in
    any precision. Where sums overflow or lose their digits, all later tokens are.
    """
    error = (got.double() - exact).square()
    stretches = zip(error.chunk(_STRETCHES, 1), exact.square().chunk(_STRETCHES, 1), strict=True)
    ratios = [float((wrong.mean() / right.mean()).sqrt()) for wrong, right in stretches]
    return max(inf if isnan(ratio) else ratio for ratio in ratios)
