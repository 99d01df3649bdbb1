"""A layer is its parameters: nothing random in its construction, nothing that its state_dict leaves out."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn

from vgpt.attention.base import roles_of
from vgpt.attention.roles import Role
from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase, relative_error


def state_dict(case: Case) -> Measurement:
    """Saved as safetensors and loaded into a new module, a layer gives the same bits."""
    worst = WorstCase("saved as safetensors and loaded anew, a layer gives the same bits (largest difference)")
    for flags, backbone in case.backbones():
        module, x = backbone.module(), backbone.inputs(2, 33)
        copy = backbone.build()
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.fill_(torch.nan)  # what is not loaded shows
        copy.load_state_dict(load(save(module.state_dict())))
        with torch.no_grad():
            worst.add(relative_error(copy.to(case.device)(x), module(x)), 0, flags)
    return worst.measurement()


def construction(case: Case) -> Measurement:
    """What a layer computes does not depend on the random state in which it was constructed.

    Constructors leave NumPy's and Python's random state alone (torch's own layers draw from torch's, and the model
    overwrites what they draw), make float32 parameters that all take part, and call the last projection `c_proj`.
    """
    worst = WorstCase(
        "layers are what their parameters are, wherever constructed, and all parameters take part (faults)"
    )
    for flags, backbone in case.backbones():
        x, outputs = backbone.inputs(2, 33), list[torch.Tensor]()
        for seed in (1, 2):
            with _random_state(seed) as touched:
                module = backbone.module()
                drawn = touched()
            worst.add(len(drawn), 0, f"{flags}: the constructor draws from the random state of {', '.join(drawn)}")
            with torch.no_grad():
                outputs.append(module(x))
        same = torch.equal(*outputs)
        worst.add(int(not same), 0, f"{flags}: outputs depend on the random state at construction")
        module = backbone.build()
        for name, parameter in module.named_parameters():
            fine = parameter.dtype is torch.float32 and parameter.requires_grad
            worst.add(int(not fine), 0, f"{flags}: {name} is no float32 parameter with a gradient")
        out = getattr(getattr(module, "c_proj", None), "weight", None)
        fine = isinstance(out, nn.Parameter) and out.ndim == 2 and out.shape[0] == backbone.shape.n_embd
        worst.add(int(not fine), 0, f"{flags}: no `c_proj` with a weight of {backbone.shape.n_embd} rows")
        _all_take_part(worst, backbone, flags)
    return worst.measurement()


def initial_weights(case: Case) -> Measurement:
    """What a layer fills itself is filled, all of it and nothing else, from the generator alone."""
    worst = WorstCase("what the layer fills itself is filled, and from the given generator alone (faults)")
    for flags, backbone in case.backbones():
        found: list[dict[str, torch.Tensor]] = []
        for state in (1, 2):  # of the world around, not of the generator
            with _random_state(state) as touched, torch.no_grad():
                module = backbone.build()
                for parameter in module.parameters():
                    parameter.fill_(torch.nan)  # what is not filled shows
                before = torch.random.get_rng_state()
                module.init_parameters(backbone.numbers("initial"))
                drawn = [*touched(), *([] if torch.equal(torch.random.get_rng_state(), before) else ["torch"])]
            worst.add(len(drawn), 0, f"{flags}: init_parameters draws from the random state of {', '.join(drawn)}")
            found.append(dict(module.named_parameters()))
        roles = roles_of(module)
        for name, one in found[0].items():
            own, filled = roles[name] is Role.OWN, bool(one.isfinite().all())
            worst.add(int(own and not filled), 0, f"{flags}: init_parameters leaves {name} without finite numbers")
            text = f"{flags}: init_parameters fills {name}, whose role is {roles[name]!r}; declare it as {Role.OWN!r}"
            worst.add(int(not own and not bool(one.isnan().all())), 0, text)
            same = torch.equal(one.nan_to_num(), found[1][name].nan_to_num())
            worst.add(int(not same), 0, f"{flags}: {name} starts with other numbers from an equal generator")
    return worst.measurement()


@contextmanager
def _random_state(seed: int) -> Iterator[Callable[[], list[str]]]:
    """Seed all global random states for a while; yields the question whose state, besides torch's, has been touched."""
    old_numpy, old_python = np.random.get_state(legacy=False), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        numpy_state, python_state = str(np.random.get_state(legacy=False)), random.getstate()

        def touched() -> list[str]:
            same = {
                "NumPy": str(np.random.get_state(legacy=False)) == numpy_state,
                "Python": random.getstate() == python_state,
            }
            return [name for name, untouched in same.items() if not untouched]

        try:
            yield touched
        finally:
            np.random.set_state(old_numpy)
            random.setstate(old_python)


def _all_take_part(worst: WorstCase, case: Case, flags: str) -> None:
    module, x = case.module(), case.inputs(2, 9)
    y = module(x)
    grads = torch.autograd.grad(y.square().sum(), list(module.parameters()), allow_unused=True)
    unused = [name for (name, _), grad in zip(module.named_parameters(), grads, strict=True) if grad is None]
    worst.add(len(unused), 0, f"{flags}: no gradient reaches {', '.join(unused)}")
