"""What an output does not depend on: how long the sequence goes on, what else is in the batch, positions not stated."""

import torch

from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.conformance.modes import MODES, ULP

_LENGTHS = (1, 2, 3, 7, 16, 33, 63, 64, 65)


def prefix_invariance(case: Case) -> Measurement:
    """The outputs of the first n tokens do not depend on how many follow: no pattern may depend on the length."""
    worst = WorstCase("the outputs of n tokens are the same at any length of the sequence (largest difference)")
    for dtype, limit in case.precisions:
        for flags, backbone in [*case.backbones(), ("--no-flash", case.on(flash=False))]:
            module = backbone.module(dtype)
            tokens = case.tokens if backbone == case else backbone.some_tokens
            x = backbone.inputs(2, tokens, dtype)
            lengths = {n for n in (*_LENGTHS, tokens // 2, tokens - 1) if n < tokens}
            with torch.no_grad():
                full = module(x)
                for n in sorted(lengths) if backbone == case else sorted(lengths & {7, 64}):
                    where = f"{flags}, {dtype}: the first {n} of {tokens} tokens, against them alone"
                    worst.add(relative_error(module(x[:, :n]), full[:, :n]), limit, where)
    return worst.measurement()


def batch_invariance(case: Case) -> Measurement:
    """A sequence is computed as if alone: outputs and gradients of one do not depend on the others."""
    worst = WorstCase("each sequence of a batch is computed as if alone (largest difference)")
    for dtype, limit in case.precisions:
        for flags, backbone in case.backbones():
            module = backbone.module(dtype)
            x = backbone.inputs(3, 33, dtype)
            x[0] *= 5  # a neighbor that would be noticed
            with torch.no_grad():
                together = module(x)
                for i in range(3):
                    where = f"{flags}, {dtype}: sequence {i} alone, against it in a batch of 3"
                    worst.add(relative_error(module(x[i : i + 1]), together[i : i + 1]), limit, where)
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(module(x)[1].sum(), x)
            worst.add(float(gradient[::2].abs().max()), 0, f"{flags}, {dtype}: sequence 1 has gradients to others")
    for flags, backbone in case.backbones():
        _change_neighbors(worst, backbone, flags)
    return worst.measurement()


def stated_positions(case: Case) -> Measurement:
    """A layer that states no positions of its own cannot tell in which order the tokens came that its last query sees.

    With `--pos learned` and `--pos none` positions are no matter of attention, but for what `visible` hides. A decay, a
    rotation or a convolution inside the layer is a second source of positions, and comparisons must know of it: then
    `effective_positions` says so.
    """
    worst = WorstCase(
        "earlier tokens in another order change nothing, where no positions are stated (largest difference)"
    )
    for dtype, limit in case.precisions:
        for flags, backbone in case.backbones():
            if backbone.shape.pos not in ("learned", "none"):
                continue
            if backbone.config.effective_positions(backbone.shape) != backbone.shape.pos:
                continue
            tokens = min(backbone.some_tokens, backbone.longest) if backbone == case else 33
            seen = backbone.visible_by_head(torch.tensor([tokens - 1]), tokens)[:, 0]
            # Those that every head sees, the query's own token apart, which is a query too.
            shared = seen.all(0)[:-1].nonzero()[:, 0]
            x = backbone.inputs(1, tokens, dtype)
            mixed = x.clone()
            mixed[:, shared] = x[:, shared.flip(0)]
            module = backbone.module(dtype)
            with torch.no_grad():
                where = (
                    f"{flags}, {dtype}: earlier tokens in reverse; effective_positions() should name what tells them"
                )
                worst.add(relative_error(module(mixed)[:, -1], module(x)[:, -1]), 10 * limit, where)
    return worst.measurement()


def _change_neighbors(worst: WorstCase, case: Case, flags: str) -> None:
    """Replace the other sequences of a batch, in every mode: a batch of the same shape is rounded in the same way."""
    module, x, other = case.module(), case.inputs(3, 33), case.inputs(3, 33, salt="neighbors")
    for mode in MODES:
        alone = mode.run(module, x)[1]
        for size in (1, 30):
            changed = mode.run(module, torch.cat((size * other[:1], x[1:2], size * other[2:])))[1]
            where = f"{flags}, {mode.name}: a sequence changes with others of its batch, of {size} times its size"
            worst.add(relative_error(changed, alone), ULP if mode.autocast else 1e-6, where)
