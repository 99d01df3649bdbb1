"""Decoding through the cache gives what the whole sequence at once gives, in chunks of any length."""

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.conformance.case import LONGEST, Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.conformance.modes import MODES, TRAINING, Mode
from vgpt.errors import VgptError

_BFLOAT16 = (Mode("eval(), bfloat16 weights", False), *MODES[2:])
"""Precisions of a cache in bfloat16: that of generation, and the mode that trains."""

_ROUNDED = 0.1
"""Limit between two ways to compute the same in bfloat16, of outputs of size one."""

_SHARP = {1: _ROUNDED, 4: 3 * _ROUNDED}
"""The same by the size of the inputs: larger ones magnify the rounding of scores, and what is lost far more."""

_PAST_A_PAGE = 150
"""Tokens to decode in every mode where something is hidden only in much longer sequences."""


def decoding(case: Case) -> Measurement:
    """Token by token, in one prefill, in random chunks, and on after a prefill past any window: as the full forward."""
    worst = WorstCase("any chunks through the cache give what the whole sequence gives (largest difference)")
    for dtype, limit in _limits(case):
        for flags, backbone in [("fused", case), ("--no-flash", case.on(flash=False))]:
            tokens = case.tokens
            steps = {
                "token by token": [1] * tokens,
                "one prefill": [tokens],
                "random chunks": _chunks(case, tokens),
                "token by token after a prefill": [tokens - 12, *[1] * 12],
                "chunks after a prefill": [tokens - 12, 5, 1, 6],
            }
            for name, chunks in steps.items():
                _compare(worst, backbone, chunks, dtype, limit, f"{flags}, {dtype}, {name}, T={tokens}")
    tokens = case.tokens if case.tokens <= LONGEST else _PAST_A_PAGE
    for chunks in ([1] * tokens, [tokens - 12, 5, *[1] * 7]):
        _compare_in_modes(worst, case, chunks, f"T={tokens}, chunks {_spelled(chunks[:3])}...")
    return worst.measurement()


def positions(case: Case) -> Measurement:
    """Decoding continues at the right position for every --pos and every switch."""
    worst = WorstCase("decoding continues in the right place for every --pos and switch (largest difference)")
    for dtype, limit in _limits(case):
        for flags, backbone in case.backbones():
            for chunks in ([1] * 20, [13, 1, 1, 9], [3, 64, 1]):
                _compare(worst, backbone, chunks, dtype, limit, f"{flags}, {dtype}, chunks {_spelled(chunks)}")
    for flags, backbone in case.backbones():
        _compare_in_modes(worst, backbone, [13, 1, 1, 9], f"{flags}, chunks 13+1+1+9")
    return worst.measurement()


def rewinding(case: Case) -> Measurement:
    """A cache taken back to n tokens continues from there, or refuses with a VgptError; reset always works."""
    worst = WorstCase("a cache that is taken back continues from there or refuses (largest difference)")
    wide, limit = torch.float64, _limits(case)[-1][1]
    for flags, backbone in case.backbones():
        # Before and after a ring has gone round.
        short, long = min(40, case.longest), case.tokens if backbone == case else case.some_tokens
        for tokens in sorted({short, long}):
            _rewind(worst, backbone, tokens, wide, TRAINING, limit, flags)
        _rewind(worst, backbone, short, torch.bfloat16, _BFLOAT16[-1], _ROUNDED, f"{flags}, {_BFLOAT16[-1].name}")
    return worst.measurement()


def _rewind(
    worst: WorstCase, case: Case, tokens: int, dtype: torch.dtype, mode: Mode, limit: float, where: str
) -> None:
    inner = torch.float32 if mode.autocast else dtype
    module = mode.of(case.module(inner))
    x, other = case.inputs(2, tokens, inner), case.inputs(2, tokens, inner, salt="other")
    for n in (0, 1, 20, tokens - 3):
        cache = module.make_cache(2, tokens, dtype=dtype, device=case.device)
        with torch.inference_mode(), mode.context(case.device):
            module(torch.cat((x[:, :n], other[:, n:]), 1), cache)
            try:
                cache.rewind(n) if n else cache.reset()
            except VgptError as error:
                worst.add(int(n == 0), 0, f"{where}: the cache cannot be reset: {error.message}")
                continue
            end, full = module(x[:, n:], cache), module(x)
        worst.equal(cache.length, tokens, f"{where}: length after going back to {n} of {tokens} tokens, and on")
        worst.add(relative_error(end, full[:, n:]), limit, f"{where}: from {tokens} back to {n} tokens, and on")


def decode(
    module: CausalSelfAttention, x: Tensor, chunks: list[int], dtype: torch.dtype | None = None
) -> tuple[Tensor, int]:
    """Run x (B, T, C) through a new cache, of x's type or another, in chunks; return outputs and the cache's length."""
    cache = module.make_cache(x.shape[0], x.shape[1], dtype=dtype or x.dtype, device=x.device)
    with torch.inference_mode():
        parts = [module(chunk, cache) for chunk in x.split(chunks, 1)]
    return torch.cat(parts, 1), cache.length


def _compare(worst: WorstCase, case: Case, chunks: list[int], dtype: torch.dtype, limit: float, where: str) -> None:
    module = case.module(dtype)
    x = case.inputs(2, sum(chunks), dtype)
    with torch.no_grad():
        full = module(x)
    got, length = decode(module, x, chunks)
    worst.equal(length, sum(chunks), f"{where}: length of the cache")
    worst.add(relative_error(got, full), limit, f"{where}: against the full forward")


def _compare_in_modes(worst: WorstCase, case: Case, chunks: list[int], where: str) -> None:
    """Decode in `eval()`, and in bfloat16 as training and as generation know it, against the whole sequence likewise.

    Inputs of four times the size make most softmaxes look at single tokens, so that one which is lost, or misplaced,
    is told from rounding.
    """
    plain = case.inputs(2, sum(chunks))
    with torch.no_grad():
        full = case.module().eval()(plain)
    worst.add(relative_error(decode(case.module().eval(), plain, chunks)[0], full), 1e-5, f"{where}, eval()")
    for mode in _BFLOAT16:
        module = mode.of(case.module(torch.float32 if mode.autocast else torch.bfloat16))
        for size, limit in _SHARP.items():
            x = (size * plain).to(torch.float32 if mode.autocast else torch.bfloat16)
            with mode.context(case.device):
                got, _ = decode(module, x, chunks, torch.bfloat16)
            text = f"{where}, {mode.name}, inputs * {size}: against the full forward"
            worst.add(relative_error(got, mode.run(module, x)), limit, text)


def _limits(case: Case) -> list[tuple[torch.dtype, float]]:
    """Return precisions and limits; a state that the variant keeps in float32 limits float64 as well."""
    narrow = (case.config.cache_cost(case.shape).state_bytes or 8) < 8
    return [(dtype, 1e-5 if narrow else limit) for dtype, limit in case.precisions]


def _chunks(case: Case, tokens: int) -> list[int]:
    stream, chunks = case.numbers("pieces"), list[int]()
    while (left := tokens - sum(chunks)) > 0:
        longest = (1, 8, 70)[int(torch.randint(3, (), generator=stream))]
        chunks.append(min(left, 1 + int(torch.randint(longest, (), generator=stream))))
    return chunks


def _spelled(chunks: list[int]) -> str:
    return f"of {chunks[0]}" if len(set(chunks)) == 1 else "+".join(map(str, chunks))
