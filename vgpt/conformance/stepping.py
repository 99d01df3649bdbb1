"""A layer's step of fixed shapes, where it has one, gives what the whole sequence gives."""

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import PAGE, Cache
from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.conformance.recording import RecordedLayer
from vgpt.errors import VgptError

_ROUNDED = 0.1
"""Limit between two ways to compute the same in bfloat16, of outputs of size one."""

_NONE = "the layer has no step of fixed shapes; it decodes without CUDA graphs"


def fixed_steps(case: Case) -> Measurement:
    """Steps of fixed shapes, recorded once and repeated as a CUDA graph would, give what the whole sequence gives.

    From the first token on, after a prefill, over the border of a page, after going back, and past any window. The
    cache counts and holds what it holds in other steps.
    """
    worst = WorstCase("fixed steps, recorded and repeated, give what the whole sequence gives (largest difference)")
    backbones = [(flags, backbone) for flags, backbone in case.backbones() if backbone.build().steps]
    if not backbones:
        return Measurement(0, 0, _NONE)
    narrow = (case.config.cache_cost(case.shape).state_bytes or 8) < 8
    few = min(PAGE + 9, case.longest)
    for flags, backbone in backbones:
        _compare(worst, backbone, few - 14, few, torch.float32, 1e-5, flags)
    _compare(worst, backbones[-1][1], few - 14, few, torch.bfloat16, _ROUNDED, backbones[-1][0])
    for dtype, limit in case.precisions if backbones[0][1] == case else ():
        _compare(worst, case, 0, few, dtype, 1e-5 if narrow else limit, "the plain backbone")
        _compare(worst, case, case.tokens - 14, case.tokens, dtype, 1e-5 if narrow else limit, "the plain backbone")
    return worst.measurement()


def _compare(
    worst: WorstCase, case: Case, prefill: int, tokens: int, dtype: torch.dtype, limit: float, flags: str
) -> None:
    module, x = case.module(dtype).eval(), case.inputs(2, tokens, dtype)
    where = f"{flags}, {dtype}, {prefill} tokens at once and {tokens - prefill} fixed steps"
    with torch.inference_mode():
        full = module(x)
        cache, plain = (module.make_cache(2, tokens, dtype=dtype, device=case.device) for _ in range(2))
        layer = RecordedLayer(module, cache, tokens, x)
        worst.add(
            relative_error(_continued(module, layer, cache, x, prefill), full), limit, f"{where}: as the full forward"
        )
        module(x, plain)
        worst.equal(cache.length, plain.length, f"{where}: tokens that the cache counts, beside a prefill")
        worst.equal(cache.nbytes, plain.nbytes, f"{where}: bytes in use, beside a prefill")
        _go_back(worst, layer, cache, x, full, limit, where)


def _continued(module: CausalSelfAttention, layer: RecordedLayer, cache: Cache, x: Tensor, prefill: int) -> Tensor:
    """Return the outputs for x of a cache that is filled by one prefill and then by fixed steps."""
    front = [module(x[:, :prefill], cache)] if prefill else []
    return torch.cat(front + [layer.step(token) for token in x[:, prefill:].split(1, 1)], 1)


def _go_back(
    worst: WorstCase, layer: RecordedLayer, cache: Cache, x: Tensor, full: Tensor, limit: float, where: str
) -> None:
    """Continue with the same recordings from an earlier token, as far as the cache can go back, and from the first."""
    for length in (x.shape[1] - 1, x.shape[1] // 2, 0):
        try:
            cache.rewind(length) if length else cache.reset()
        except VgptError:
            continue
        end = min(x.shape[1], length + 3)
        again = torch.cat([layer.step(token) for token in x[:, length:end].split(1, 1)], 1)
        worst.add(relative_error(again, full[:, length:end]), limit, f"{where}, then back to {length} tokens and on")
