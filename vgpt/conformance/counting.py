"""What a variant states about its pairs, parameters and switches, held against what can be counted."""

from dataclasses import replace

import numpy as np
import torch

from vgpt.attention.base import CausalSelfAttention, roles_of
from vgpt.attention.options import OPTIONS
from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error

_LENGTHS = (1, 2, 3, 17, 63, 64, 65, 100, 257)
_PROBE = 24
"""Tokens on which switches are tried."""

_VARYING_LAYERS = 4
"""Layers over which pairs are averaged where each has its own pattern."""


def pairs(case: Case) -> Measurement:
    """`pairs(T)` counts the mask; `dense_pairs` counts at least as many; `visible` reads numbers, arrays and tensors.

    Where masks differ between heads or layers, `pairs` is their mean, exact to one pair.
    """
    worst = WorstCase("the mask has as many pairs as are charged, none of them with the future (pairs too many or few)")
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
    return worst.measurement()


def parameters(case: Case) -> Measurement:
    """`params` and `matmul_params` count what the module holds, on every backbone."""
    worst = WorstCase("the module holds as many parameters as stated, on every backbone")
    for flags, backbone in case.backbones():
        module = backbone.build()
        held, roles = list(module.parameters()), roles_of(module)
        config, shape = backbone.config, backbone.shape
        worst.equal(sum(p.numel() for p in held), config.params(shape), f"{flags}: parameters")
        matrices = sum(p.numel() for name, p in module.named_parameters() if p.ndim == 2 and roles[name].decays)
        worst.equal(matrices, config.matmul_params(shape), f"{flags}: weights of matrices")
    return worst.measurement()


def switches(case: Case) -> Measurement:
    """A switch or position changes the outputs where it is accepted, and is refused where it is not honored."""
    config, plain = case.config, case.on(pos="none")
    worst = WorstCase("every switch and --pos acts or is refused (those that do neither)")
    # Of a single visible key the weight is 1, whatever its score: then nothing that acts on scores can show.
    alone = bool((case.visible(torch.arange(_PROBE), _PROBE).sum(1) == 1).all())
    silent = {"input", "nothing"} | ({"scores"} if alone else set[str]())  # no matter of attention, or not to be seen
    for option, value in [(one, value) for one in OPTIONS for value in one.values]:
        flags = option.flag_with(value)
        refused = bool(config.check(replace(plain.shape, **{option.setting: value})))
        if config.refusal(option) is not None:
            worst.add(int(not refused), 0, f"{flags} is not among those honored, yet check() accepts it")
        elif not refused and option.acts_on not in silent:
            same = not config.check(plain.shape) and _outputs_equal(plain, plain.on(**{option.setting: value}))
            worst.add(int(same), 0, f"{flags} is accepted, yet changes nothing")
    unknown = {*config.switches, *config.positions} - {option.name for option in OPTIONS}
    worst.add(len(unknown), 0, f"unknown switches or positions: {', '.join(sorted(unknown))}")
    return worst.measurement()


def _kinds_of_numbers(worst: WorstCase, case: Case) -> None:
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
        return relative_error(modules[0](x), modules[1](x)) < 1e-9
