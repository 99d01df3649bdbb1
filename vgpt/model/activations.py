"""MLP activations by name."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.errors import UsageError, did_you_mean
from vgpt.model.gelu import gelu_by_tanh
from vgpt.settings.model import ACTIVATIONS

Activation = Callable[[Tensor], Tensor]
_known: dict[str, Activation] = {}


def register_activation(name: str) -> Callable[[Activation], Activation]:
    """Make a function of one tensor the activation `name`, also for the settings.

    Raises:
        TypeError: the name is taken.
    """

    def register(function: Activation) -> Activation:
        if name in _known:
            raise TypeError(f"activation {name!r} is registered twice")
        _known[name] = function
        if name not in ACTIVATIONS:
            ACTIVATIONS.append(name)
        return function

    return register


def activation(name: str) -> Activation:
    """Return the activation `name`.

    Raises:
        UsageError: it is unknown.
    """
    if name not in _known:
        raise UsageError(
            f"unknown activation {name!r}{did_you_mean(name, _known)}", f"Known activations: {', '.join(_known)}."
        )
    return _known[name]


@register_activation("gelu_new")
def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2 was trained: Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2."""
    return gelu_by_tanh(x)


@register_activation("gelu")
def gelu(x: Tensor) -> Tensor:
    """Exact GELU, by the error function."""
    return F.gelu(x)


@register_activation("silu")
def silu(x: Tensor) -> Tensor:
    """Sigmoid-weighted linear unit: x * sigmoid(x)."""
    return F.silu(x)


@register_activation("relu")
def relu(x: Tensor) -> Tensor:
    """Rectified linear unit."""
    return torch.relu(x)


@register_activation("relu2")
def relu2(x: Tensor) -> Tensor:
    """Squared rectified linear unit: So et al. 2021, arXiv 2109.08668."""
    return torch.relu(x).square()
