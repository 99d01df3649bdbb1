"""MLP activations by name; GELU by tanh has a way of its own on a CPU, in chunks that stay in the processor's cache.

Torch's kernel spends its time in tanh. Since (1 + tanh u) / 2 = sigmoid(2 u), the activation is x * sigmoid(z) with
z = 2 u = x (a + b x^2), and sigmoid goes through a vectorized exp. The slope needs the same sigmoid, so forward
makes it along and keeps it in place of x. Speed relative to torch's kernels, forward and backward, one core of an AMD
EPYC, torch 2.13 (above 1 = faster):

    numbers   8,192    524,288    1,572,864    3,145,728
    float32     1.0        2.3          1.8          1.7
    bfloat16    0.8        2.1          2.1          2.0
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vgpt.errors import UsageError, did_you_mean
from vgpt.settings.model import ACTIVATIONS

# z = x (a + b x^2).
_A = 2.0 * math.sqrt(2.0 / math.pi)
_B = 0.044715 * _A
# Numbers in a chunk per thread: three of them in float32 are held. Larger ones win where several threads meet after
# each pass, by up to 1.5x from 32,768 to 131,072.
_CHUNK = 1 << 17
# Below this many numbers, starting a dozen passes costs more than torch's one.
_FEWEST = 1 << 16
_TYPES = (torch.float32, torch.bfloat16)


def gelu_by_tanh(x: Tensor) -> Tensor:
    """Return x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, computed in float32 or wider."""
    # A compiler makes a loop of its own of what it sees.
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in _TYPES or x.numel() < _FEWEST:
        return F.gelu(x, approximate="tanh")
    return _Gelu.apply(x)


class _Gelu(torch.autograd.Function):
    """The activation, and its slope made along with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Map x (...) to (...)."""
        flat, direct = x.reshape(-1), x.dtype is torch.float32
        y = torch.empty_like(flat)
        slope = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        a = torch.tensor(_A)
        size = min(_CHUNK * torch.get_num_threads(), flat.numel())
        scratch = torch.empty(3, size)
        for start in range(0, flat.numel(), size):
            part = slice(start, min(start + size, flat.numel()))
            s, t, wide = scratch[:, : part.stop - start]
            # Reading and writing float32 where it stands saves two passes.
            h = flat[part] if direct else wide.copy_(flat[part])
            torch.addcmul(a, h, h, value=_B, out=s).mul_(h).sigmoid_()
            if slope is not None:
                torch.addcmul(a, h, h, value=3.0 * _B, out=t)  # z'
            out = torch.mul(h, s, out=y[part] if direct else wide)
            if not direct:
                y[part] = out
            if slope is not None:
                t.mul_(out)
                slope[part] = t.addcmul_(t, s, value=-1.0).add_(s)  # y z' (1 - s) + s
        ctx.save_for_backward(slope)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> Tensor:
        """Return the gradient by x."""
        (slope,) = ctx.saved_tensors
        (grad,) = grad_outputs
        return grad * slope.view(grad.shape)


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
