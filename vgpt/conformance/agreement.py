"""A layer computes the same thing in every mode, and each time."""

from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.conformance.case import Case
from vgpt.conformance.decoding import decode
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.conformance.modes import MODES, TRAINING, ULP, Mode

_NEAR = 0.02
"""How far bfloat16 may be from float32, relative to outputs of size one, as a root mean square."""


def modes(case: Case) -> Measurement:
    """A layer computes the same in `train()` and `eval()` and near that under autocast, and the same bits each time.

    Between two calls it sees other inputs and decodes. Dropout is the backbone's, outside of attention: a layer with a
    dropout of its own would be the only variant that has it.
    """
    worst = WorstCase(
        "twice the same bits in every mode, train() as eval(), autocast near float32 (largest difference)"
    )
    for flags, backbone in case.backbones():
        module = backbone.module()
        tokens = min(backbone.some_tokens, backbone.longest) if backbone == case else 33
        x = backbone.inputs(2, tokens)
        plain = TRAINING.run(module, x)
        for mode in MODES:
            first = mode.run(module, x)
            again = _after_other_calls(mode, module, backbone, x)
            where = f"{flags}, {mode.name}"
            changed = relative_error(again, first, floor=1e-30)
            worst.add(changed, 0, f"{where}: the same call again, after others, differs: random, or a state that stays")
            if mode.autocast:
                error = (first.float() - plain).square().mean().sqrt() / plain.square().mean().sqrt()
                worst.add(float(error), _NEAR, f"{where}: far from float32")
            same = ULP if mode.autocast else 1e-5
            if not mode.training:
                trained = Mode("", True, mode.autocast).run(module, x)
                text = f"{where}: other numbers than in train(); dropout is the backbone's, attention has none"
                worst.add(relative_error(first, trained), same, text)
            with mode.context(backbone.device):
                followed = mode.of(module)(x.clone().requires_grad_()).detach()
            worst.add(relative_error(followed, first), same, f"{where}: other numbers with gradients than without")
    return worst.measurement()


def _after_other_calls(mode: Mode, module: CausalSelfAttention, case: Case, x: Tensor) -> Tensor:
    mode.run(module, 3 * case.inputs(1, min(x.shape[1] + 7, case.shape.block_size), salt="other"))
    with mode.context(case.device):
        decode(mode.of(module), case.inputs(3, 9, salt="decoded"), [5, 1, 3])
    return mode.run(module, x)
