"""Right gradients: against finite differences in float64, and under autocast against float64."""

from collections.abc import Iterator
from functools import partial
from math import inf, isnan, log

import torch
from torch import Tensor
from torch.func import functional_call

from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase
from vgpt.conformance.modes import MODES, TRAINING, Mode

_COSINE = 0.99
"""Least cosine between a gradient under autocast and that in float64."""

_LENGTH = 1.1
"""Most by which the length of a gradient under autocast may be wrong, as a factor."""

_PART = 0.5
"""Most by which the gradient of one head's rows may be wrong, relative to it."""

_NOTHING = 0.01
"""A gradient below this part of what it should be is none."""

_SILENT = 1e-7
"""Gradients below this part of the largest one are zero in exact arithmetic, as those of a bias of keys."""


_MISMATCH = "Jacobian mismatch"


def gradients(case: Case) -> Measurement:
    """Gradients of inputs and parameters agree with finite differences, in float64 (torch.autograd.gradcheck).

    Where the layer computes in float32 inside, whatever it is given, the differences are taken over larger steps and
    held to float32's precision.
    """
    claim = "gradients agree with finite differences in float64 (backbones and lengths where they do not)"
    if case.narrow:
        claim += "; this layer computes in float32 inside, so they are held to float32's precision"
    worst = WorstCase(claim)
    narrow = case.on(n_embd=4 * case.shape.n_head)
    small = case if narrow.config.check(narrow.shape) else narrow
    for flags, backbone in small.backbones():
        # Every entry where that is cheap, random directions for the parameters and for a long sequence.
        for tokens, slow in ((4, True), (5, False), (case.tokens, False)):
            if backbone != small and tokens > 5:
                continue
            if fault := _gradcheck(backbone, tokens, slow=slow):
                worst.add(1, 0, f"{flags}, T={tokens}: {fault}")
                return worst.measurement()  # explaining one fault may take gradcheck seconds
    return worst.measurement()


def gradients_under_autocast(case: Case) -> Measurement:
    """In bfloat16 autocast, the mode that trains, gradients point where those in float64 do, and are as long.

    For the input and each parameter: cosine, length, and the error of each head's rows by themselves, in which a key
    that is detached shows although values have far larger gradients.
    """
    worst = WorstCase("gradients under autocast are those of float64 (1 - cosine, or a relative error)")
    for flags, backbone in case.backbones():
        tokens = min(case.tokens, 300) if backbone == case else 48
        exact = dict(_gradients(backbone, tokens, torch.float64, TRAINING))
        largest = max(float(wanted.norm()) for wanted in exact.values())
        for name, got in _gradients(backbone, tokens, torch.float32, MODES[2]):
            where = f"{flags}, T={tokens}: {name}"
            if float(exact[name].norm()) < _SILENT * largest:
                worst.add(float(got.norm()) / largest, 0.1, f"{where}: a gradient under autocast where none should be")
            else:
                _compare(worst, got, exact[name], backbone.shape.head_dim, where)
    return worst.measurement()


def _gradients(case: Case, tokens: int, dtype: torch.dtype, mode: Mode) -> Iterator[tuple[str, Tensor]]:
    module, x = mode.of(case.module(dtype)), case.inputs(2, tokens, dtype).requires_grad_()
    with mode.context(case.device):
        y = module(x)
    weights = case.inputs(2, tokens, torch.float64, salt="weights").to(y.dtype)
    names = ["the input", *(name for name, _ in module.named_parameters())]
    found = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()], materialize_grads=True)
    yield from ((name, gradient.double()) for name, gradient in zip(names, found, strict=True))


def _compare(worst: WorstCase, got: Tensor, wanted: Tensor, rows: int, where: str) -> None:
    ratio = float(got.norm() / wanted.norm())
    if ratio < _NOTHING or isnan(ratio):
        text = "no finite gradient" if isnan(ratio) else "no gradient, or next to none,"
        worst.add(inf, _PART, f"{where}: {text} arrives under autocast; detached, or not used there?")
        return
    cosine = float((got * wanted).sum() / (got.norm() * wanted.norm()))
    text = f"{where}: its gradient under autocast is {ratio:.3g} times as long as in float64"
    worst.add(abs(log(ratio)), log(_LENGTH), text)
    worst.add(
        1 - cosine, 1 - _COSINE, f"{where}: its gradient under autocast has a cosine of {cosine:.3f} with float64's"
    )
    if wanted.ndim != 2:
        return
    parts = list(zip(got.split(rows), wanted.split(rows), strict=True))
    # Where the exact gradient is next to nothing, so may be the error be a large part of it.
    floor = 0.02 * float(torch.stack([right.square().sum() for _, right in parts]).mean().sqrt())
    for i, (wrong, right) in enumerate(parts):
        error = float((wrong - right).norm()) / max(float(right.norm()), floor)
        last = i * rows + len(right) - 1
        nothing = float(wrong.norm()) < _NOTHING * float(right.norm()) and error > _PART
        cause = "no gradient arrives under autocast; detached there?" if nothing else "wrong gradient under autocast"
        worst.add(inf if nothing else error, _PART, f"{where}, rows {i * rows} to {last}: {cause}")


def _gradcheck(case: Case, tokens: int, *, slow: bool) -> str:
    """Return what is wrong, in one line; empty when nothing is."""
    module = case.module(torch.float64)
    x = case.inputs(1, tokens, torch.float64).requires_grad_()
    names = [name for name, _ in module.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=False)), (x,))

    everything = [x, *module.parameters()]
    # float32 rounds outputs of size one by 6e-8; over a step of 2e-3 that is an error of 1e-4 or so.
    steps = {"eps": 1e-3, "atol": 5e-3, "rtol": 1e-2} if case.narrow else {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-5}
    check = partial(torch.autograd.gradcheck, nondet_tol=1e-6 if case.narrow else 0.0, **steps)
    try:
        check(run, [x] if slow else everything, fast_mode=not slow)
    except RuntimeError as error:
        if _MISMATCH not in str(error):
            return str(error).strip().partition("\n")[0].rstrip(",")
    else:
        return ""
    # Whose gradients are wrong: each by itself, the others held.
    wrong: list[str] = []
    for name, one in zip(["the input", *names], everything, strict=True):
        held = [value if value is one else value.detach() for value in everything]
        if not check(run, held, fast_mode=not slow, raise_exception=False):
            wrong.append(name)
    return f"finite differences give another gradient of {', '.join(wrong) or 'the input'}"
