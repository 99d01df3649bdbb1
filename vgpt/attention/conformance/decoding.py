"""Decoding through the cache gives what the whole sequence at once gives, in pieces of any length."""

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.conformance.case import Case
from vgpt.attention.conformance.measure import Finding, Worst, gap
from vgpt.errors import VgptError


def decoding(case: Case) -> Finding:
    """Token by token, in one prefill, in random pieces, and on after a prefill past any window: as the full forward."""
    worst = Worst("any pieces through the cache give what the whole sequence gives (largest difference)")
    for dtype, limit in _limits(case):
        for flags, trunk in [("fused", case), ("--no-flash", case.on(flash=False))]:
            tokens = case.tokens
            steps = {
                "token by token": [1] * tokens,
                "one prefill": [tokens],
                "random pieces": _pieces(case, tokens),
                "token by token after a prefill": [tokens - 12, *[1] * 12],
                "pieces after a prefill": [tokens - 12, 5, 1, 6],
            }
            for name, pieces in steps.items():
                _compare(worst, trunk, pieces, dtype, limit, f"{flags}, {dtype}, {name}, T={tokens}")
    return worst.finding()


def positions(case: Case) -> Finding:
    """Decoding continues at the right position for every --pos and every switch."""
    worst = Worst("decoding continues in the right place for every --pos and switch (largest difference)")
    for dtype, limit in _limits(case):
        for flags, trunk in case.trunks():
            for pieces in ([1] * 20, [13, 1, 1, 9], [3, 64, 1]):
                _compare(worst, trunk, pieces, dtype, limit, f"{flags}, {dtype}, pieces {_spelled(pieces)}")
    return worst.finding()


def rewinding(case: Case) -> Finding:
    """A cache taken back to n tokens continues from there, or refuses with a VgptError; reset always works."""
    worst = Worst("a cache that is taken back continues from there or refuses (largest difference)")
    dtype, limit = torch.float64, _limits(case)[-1][1]
    for flags, trunk in case.trunks():
        module = trunk.module(dtype)
        # Before and after a ring has gone round.
        for tokens in sorted({min(40, case.longest), case.tokens}):
            x, other = trunk.inputs(2, tokens, dtype), trunk.inputs(2, tokens, dtype, salt="other")
            for n in (0, 1, 20, tokens - 3):
                cache = module.make_cache(2, tokens, dtype=dtype, device=case.device)
                with torch.inference_mode():
                    module(torch.cat((x[:, :n], other[:, n:]), 1), cache)
                    try:
                        cache.rewind(n) if n else cache.reset()
                    except VgptError as error:
                        worst.add(int(n == 0), 0, f"{flags}: the cache cannot be reset: {error.message}")
                        continue
                    end, full = module(x[:, n:], cache), module(x)
                worst.equal(cache.length, tokens, f"{flags}: length after going back to {n} of {tokens} tokens, and on")
                worst.add(gap(end, full[:, n:]), limit, f"{flags}: from {tokens} back to {n} tokens, and on")
    return worst.finding()


def decode(module: CausalSelfAttention, x: Tensor, pieces: list[int]) -> tuple[Tensor, int]:
    """Run x (B, T, C) through a new cache in pieces; return the outputs and the cache's length."""
    cache = module.make_cache(x.shape[0], x.shape[1], dtype=x.dtype, device=x.device)
    with torch.inference_mode():
        parts = [module(piece, cache) for piece in x.split(pieces, 1)]
    return torch.cat(parts, 1), cache.length


def _compare(worst: Worst, case: Case, pieces: list[int], dtype: torch.dtype, limit: float, where: str) -> None:
    module = case.module(dtype)
    x = case.inputs(2, sum(pieces), dtype)
    with torch.no_grad():
        full = module(x)
    got, length = decode(module, x, pieces)
    worst.equal(length, sum(pieces), f"{where}: length of the cache")
    worst.add(gap(got, full), limit, f"{where}: against the full forward")


def _limits(case: Case) -> list[tuple[torch.dtype, float]]:
    """Return precisions and limits; a state that the variant keeps in float32 limits float64 as well."""
    narrow = (case.config.cache_cost(case.shape).state_bytes or 8) < 8
    return [(torch.float32, 1e-5), (torch.float64, 1e-5 if narrow else 1e-10)]


def _pieces(case: Case, tokens: int) -> list[int]:
    stream, pieces = case.numbers("pieces"), list[int]()
    while (left := tokens - sum(pieces)) > 0:
        longest = (1, 8, 70)[int(torch.randint(3, (), generator=stream))]
        pieces.append(min(left, 1 + int(torch.randint(longest, (), generator=stream))))
    return pieces


def _spelled(pieces: list[int]) -> str:
    return f"of {pieces[0]}" if len(set(pieces)) == 1 else "+".join(map(str, pieces))
