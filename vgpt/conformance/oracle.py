"""A variant beside a named one of equal weights: what both see, they must compute alike.

The other checks hold a variant against itself. A wrong scale, or queries that read the wrong key/value head, is as
causal and as consistent as the right one: only a reference tells.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.config import AttentionConfig
from vgpt.attention.grouped.config import GroupedConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.errors import SettingsError, UsageError

Transform = Callable[[Tensor], Tensor]
"""From a parameter of the variant to that of the reference; linear, so that gradients go back through it."""


def mapping(case: Case, reference: AttentionConfig) -> dict[str, Transform]:
    """Return how each parameter of the reference is made from the variant's one of the same name.

    Equal shapes are copied. Where the reference has more key/value heads, those of the variant are repeated, each for
    its neighboring query heads.

    Raises:
        SettingsError: the reference does not fit the backbone.
        UsageError: no parameters of the reference can be made from these.
    """
    if faults := reference.check(case.shape):
        raise SettingsError([f"--oracle {reference.kind}: {fault}" for fault in faults])
    own = {name: p.shape for name, p in case.build().named_parameters()}
    other = {name: p.shape for name, p in replace(case, config=reference).build().named_parameters()}
    repeated = _repeated_heads(case, reference)
    found: dict[str, Transform] = {}
    for name, shape in other.items():
        if own.get(name) == shape:
            found[name] = _same
        elif name in ("c_attn.weight", "c_attn.bias") and name in own and repeated is not None:
            found[name] = repeated
    if found.keys() == own.keys() == other.keys():
        return found
    differ = sorted({n for n in own.keys() | other.keys() if n not in found or own.get(n) is None})
    shapes = "; ".join(f"{n}: {_size(own.get(n))}, {_size(other.get(n))} in {reference.kind}" for n in differ)
    raise UsageError(
        f"--oracle {reference.kind}: its weights cannot be made from those of {case.config.kind}: {shapes}",
        "Name a variant with the same parameters, or with more key/value heads of the same kind.",
    )


def oracle(case: Case, reference: AttentionConfig) -> Measurement:
    """Outputs and gradients of input and parameters are the reference's, as far as both see the same tokens."""
    worst = WorstCase("")
    lengths: list[int] = []
    for flags, backbone in case.backbones():
        other = replace(backbone, config=reference, origin=None)
        if reference.check(other.shape):
            continue
        tokens = _common(backbone, other)
        lengths.append(tokens)
        folds = mapping(backbone, reference)
        module, ours = backbone.module(torch.float64), other.module(torch.float64)
        with torch.no_grad():
            values = dict(module.named_parameters())
            for name, parameter in ours.named_parameters():
                parameter.copy_(folds[name](values[name]))
        where = f"{flags}, T={tokens}"
        limit = 1e-5 if backbone.narrow or other.narrow else 1e-9
        _compare(worst, backbone, tokens, (module, ours), folds, where, limit)
    worst.claim = f"outputs and gradients are those of {reference.kind} with equal weights"
    worst.claim += f", up to {max(lengths):,} tokens, as far as both see the same (largest difference)"
    return worst.measurement()


def _compare(
    worst: WorstCase,
    case: Case,
    tokens: int,
    modules: tuple[CausalSelfAttention, CausalSelfAttention],
    folds: dict[str, Transform],
    where: str,
    limit: float,
) -> None:
    x, weights = (case.inputs(2, tokens, torch.float64, salt=salt) for salt in ("", "weights"))
    module, ours = modules
    inputs = [x.clone().requires_grad_() for _ in modules]
    outputs = [one(given) for one, given in zip(modules, inputs, strict=True)]
    text = f"{where}: outputs differ from the reference's; a wrong scale, mask or order of heads shows so"
    worst.add(off := relative_error(outputs[0].detach(), outputs[1].detach()), limit, text)
    if not off <= limit:
        return
    losses = [(y * weights).sum() for y in outputs]
    names = [name for name, _ in module.named_parameters()]
    got = torch.autograd.grad(losses[0], [inputs[0], *module.parameters()], materialize_grads=True)
    theirs = dict(ours.named_parameters())
    wanted = torch.autograd.grad(losses[1], [inputs[1], *(theirs[n] for n in names)], materialize_grads=True)
    worst.add(relative_error(got[0], wanted[0]), limit, f"{where}: gradient of the input differs from the reference's")
    for name, parameter, one, other in zip(names, module.parameters(), got[1:], wanted[1:], strict=True):
        # The gradient of a repeated head is the sum over its copies: what the repetition gives backwards.
        source = parameter.detach().requires_grad_()
        (back,) = torch.autograd.grad(folds[name](source), source, other)
        worst.add(relative_error(one, back), limit, f"{where}: gradient of {name} differs from the reference's")


def _common(case: Case, other: Case) -> int:
    """Return up to how many tokens, at most 300, both see the same in every head."""
    most = min(300, case.shape.block_size)
    rows = torch.arange(most)
    differ = (case.visible_by_head(rows, most) != other.visible_by_head(rows, most)).any(2).any(0)
    return int(differ.nonzero()[0]) if differ.any() else most


def _repeated_heads(case: Case, reference: AttentionConfig) -> Transform | None:
    """Return the repetition of key/value heads in `c_attn`; None where these are no such layers."""
    own, shape = case.config, case.shape
    if not (isinstance(own, GroupedConfig) and isinstance(reference, GroupedConfig)):
        return None
    few, many = own.kv_heads(shape), reference.kv_heads(shape)
    layers = case.build(), replace(case, config=reference).build()
    if many % few or not all(isinstance(layer, GroupedAttention) for layer in layers):
        return None

    def fold(value: Tensor) -> Tensor:
        D = shape.head_dim
        q, k, v = value.split([shape.n_head * D, few * D, few * D])
        k, v = (part.unflatten(0, (few, D)).repeat_interleave(many // few, 0).flatten(0, 1) for part in (k, v))
        return torch.cat((q, k, v))

    return fold


def _same(value: Tensor) -> Tensor:
    return value.clone()


def _size(shape: torch.Size | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))
