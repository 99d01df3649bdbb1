"""What a variant states about its costs, held against what can be counted."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.conformance.case import Case
from vgpt.attention.conformance.measure import Finding, Worst, gap

_LENGTHS = (1, 2, 3, 17, 63, 64, 65, 100, 257)
_PROBE = 24
"""Tokens on which switches are tried."""

_VARYING_LAYERS = 4
"""Layers over which pairs are averaged where each has its own pattern."""


def pairs(case: Case) -> Finding:
    """`pairs(T)` counts the mask; `dense_pairs` counts at least as many; `visible` reads numbers, arrays and tensors.

    Where masks differ between heads or layers, `pairs` is their mean, exact to one pair.
    """
    worst = Worst("the mask has as many pairs as are charged, none of them with the future (pairs too many or few)")
    for tokens in sorted({*_LENGTHS, case.tokens, case.longest}):
        if tokens > case.longest:
            continue
        rows = torch.arange(tokens)
        masks = [case.visible_by_head(rows, tokens, case.layer + i) for i in range(_VARYING_LAYERS)]
        counts = torch.stack(masks).sum((2, 3)).double()  # (layers, heads)
        stated, mean = case.config.pairs(tokens), float(counts.mean())
        slack = 0 if (counts == counts[0, 0]).all() else 1
        worst.add(abs(mean - stated), slack, f"T={tokens}: the mask has {mean:,.1f} pairs, pairs() says {stated:,}")
        dense = case.config.dense_pairs(tokens)
        worst.add(max(0, stated - dense), 0, f"T={tokens}: dense_pairs() says {dense:,}, fewer than pairs()")
        for mask in masks:
            worst.add(int(mask.triu(1).sum()), 0, f"T={tokens}: `visible` shows keys of the future")
            worst.add(int((~mask.any(2)).sum()), 0, f"T={tokens}: a query sees nothing at all")
    _kinds_of_numbers(worst, case)
    return worst.finding()


def parameters(case: Case) -> Finding:
    """`params` and `matmul_params` count what the module holds, on every trunk."""
    worst = Worst("the module holds as many parameters as stated, on every trunk")
    for flags, trunk in case.trunks():
        held = list(trunk.build().parameters())
        config, shape = trunk.config, trunk.shape
        worst.equal(sum(p.numel() for p in held), config.params(shape), f"{flags}: parameters")
        matrices = sum(p.numel() for p in held if p.ndim == 2)
        worst.equal(matrices, config.matmul_params(shape), f"{flags}: weights of matrices")
    return worst.finding()


def switches(case: Case) -> Finding:
    """A switch or position changes the outputs where it is accepted, and is refused where it is not honoured."""
    config, plain = case.config, case.on(pos="none")
    worst = Worst("every switch and --pos acts or is refused (those that do neither)")
    changes: list[tuple[str, dict[str, Any]]] = [
        ("qk_norm", {"qk_norm": True}),
        ("out_gate", {"out_gate": "head"}),
        ("out_gate", {"out_gate": "elem"}),
        ("sinks", {"sinks": True}),
        ("rope", {"pos": "rope"}),
        ("alibi", {"pos": "alibi"}),
        ("none", {"pos": "none"}),
        ("learned", {"pos": "learned"}),
    ]
    known = {*config.switches, *config.positions}
    # Of a single visible key the weight is 1, whatever its score: then nothing that acts on scores can show.
    alone = bool((case.visible(torch.arange(_PROBE), _PROBE).sum(1) == 1).all())
    silent = {"none", "learned"} | ({"qk_norm", "rope", "alibi"} if alone else set[str]())
    for name, change in changes:
        flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in change.items())
        refused = bool(config.check(replace(plain.shape, **change)))
        if name not in known:
            worst.add(int(not refused), 0, f"{flags} is not among those honoured, yet check() accepts it")
        elif not refused and name not in silent:  # "none" and "learned" are the trunk's, and may change nothing
            same = not config.check(plain.shape) and _outputs_equal(plain, plain.on(**change))
            worst.add(int(same), 0, f"{flags} is accepted, yet changes nothing")
    unknown = known - {"qk_norm", "out_gate", "sinks", "learned", "none", "rope", "alibi"}
    worst.add(len(unknown), 0, f"unknown switches or positions: {', '.join(sorted(unknown))}")
    return worst.finding()


def flops(case: Case) -> Finding:
    """FLOPs as stated, against those that torch counts.

    With a softmax, the naive form is counted at two lengths: its linear part must be the projections, and its
    quadratic part the whole square, of which `flops` charges the visible pairs. Without one, the linear layers are
    counted for the projections, and the rest must lie between half the exact and twice the dense statement.
    """
    if case.softmax:
        worst = Worst("projections and the whole square are counted as stated, and the visible part of it charged")
        for flags, trunk in case.trunks():
            _quadratic(worst, trunk.on(flash=False), flags)
        return worst.finding()
    worst = Worst("projections are counted as stated; the mixing, which has no reference, is within a factor of 2")
    for flags, trunk in case.trunks():
        tokens = min(256, trunk.longest)
        total, projections = _count(trunk, tokens)
        exact, dense = trunk.config.flops(trunk.shape, tokens), trunk.config.dense_flops(trunk.shape, tokens)
        worst.equal(projections, exact.projections, f"{flags}, T={tokens}: FLOPs of the projections")
        worst.equal(projections, dense.projections, f"{flags}, T={tokens}: FLOPs of the projections, dense convention")
        mixing, where = total - projections, f"{flags}, T={tokens}: {total - projections:,} FLOPs of mixing counted"
        worst.add(max(0.0, exact.mixing / 2 - mixing), 0, f"{where}, {exact.mixing:,} stated")
        worst.add(max(0.0, mixing - 2 * dense.mixing), 0, f"{where}, {dense.mixing:,} stated by the dense convention")
    return worst.finding()


def decode_flops(case: Case) -> Finding:
    """A decoding step takes no more than twice the FLOPs that are stated, or that full attention to all tokens takes.

    Making the keys and values of all tokens anew, as a cache of latents invites to, shows here.
    """
    worst = Worst(
        "a decoding step multiplies at most twice what is stated, or what full attention would (FLOPs too many)"
    )
    tokens = min(128, case.longest)
    for flags, trunk in case.trunks():
        config, shape = trunk.config, trunk.shape
        counted, _ = _count(trunk, tokens, decoding=True)
        stated = config.decode_flops(shape, tokens).total
        full = 2 * config.matmul_params(shape) + 2 * tokens * shape.n_head * (
            config.qk_dim(shape) + config.v_dim(shape)
        )
        where = f"{flags}, T={tokens}: {counted:,} FLOPs counted in a step, {stated:,} stated"
        worst.add(max(0, counted - 2 * max(stated, full)), 0, where)
    return worst.finding()


def _kinds_of_numbers(worst: Worst, case: Case) -> None:
    """Ask about single numbers, NumPy arrays and tensors: all must say the same."""
    tokens = min(case.tokens, 300)
    rows = case.rows(tokens, 8)
    for head in range(case.shape.n_head):
        tensor = case.visible_by_head(torch.tensor(rows), tokens)[head].numpy()
        array = case.config.visible(np.array(rows)[:, None], np.arange(tokens)[None, :], case.layer, head)
        wrong = int((np.asarray(array) != tensor).sum())
        for i, row in enumerate(rows):
            for key in (0, row // 2, max(row - 1, 0), row):
                wrong += bool(case.config.visible(row, key, case.layer, head)) != bool(tensor[i, key])
        worst.add(wrong, 0, f"`visible` says something else to numbers or arrays than to tensors, head {head}")


def _outputs_equal(one: Case, other: Case) -> bool:
    modules: list[CausalSelfAttention] = [case.module(torch.float64) for case in (one, other)]
    x = one.inputs(1, _PROBE, torch.float64)
    with torch.no_grad():
        return gap(modules[0](x), modules[1](x)) < 1e-9


def _quadratic(worst: Worst, case: Case, flags: str) -> None:
    short, long = 16, 48
    config, shape = case.config, case.shape
    (low, _), (high, _) = _count(case, short), _count(case, long)
    # a T + b T^2, from two lengths
    square, remainder = divmod(high * short - low * long, short * long * (long - short))
    linear = (low - square * short**2) // short
    worst.add(remainder, 0, f"{flags}: the naive form's FLOPs are not a T + b T^2")
    widths = shape.n_head * (config.qk_dim(shape) + config.v_dim(shape))
    worst.equal(square, 2 * widths, f"{flags}: FLOPs per pair of tokens")
    for tokens in {short, long, min(case.tokens, 300), case.longest}:
        for name, stated, count in (
            ("flops", config.flops(shape, tokens), config.pairs(tokens)),
            ("dense_flops", config.dense_flops(shape, tokens), config.dense_pairs(tokens)),
        ):
            worst.equal(linear * tokens, stated.projections, f"{flags}, T={tokens}: projections in {name}")
            worst.equal(square * count, stated.mixing, f"{flags}, T={tokens}: mixing in {name}, {count:,} pairs")


def _count(case: Case, tokens: int, *, decoding: bool = False) -> tuple[int, int]:
    """Return the FLOPs of a forward pass, all of them and those of linear layers.

    With `decoding`, only those of the last token are counted, the others being in the cache.
    """
    module, x = case.module(), case.inputs(1, tokens)
    cache = module.make_cache(1, tokens, dtype=x.dtype, device=x.device) if decoding else None
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(decoding), torch.no_grad():
        if cache is not None:
            module(x[:, :-1], cache)
            x = x[:, -1:]
        # Only the products of the MATH backend are counted; the CPU's fused kernel counts as nothing.
        with counter, sdpa_kernel(SDPBackend.MATH):
            module(x, cache)
    counts = counter.get_flop_counts()
    linear = [name for name, child in module.named_modules() if isinstance(child, torch.nn.Linear)]
    root = type(module).__name__
    return counter.get_total_flops(), sum(sum(counts.get(f"{root}.{name}", {}).values()) for name in linear)
