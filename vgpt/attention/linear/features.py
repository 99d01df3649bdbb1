"""Feature maps phi, whose products phi(q) phi(k) stand where the softmax has exp(q k).

A map has two stages. `base` acts on each number of (..., D); `expand` makes the m features of the state from it, and
`kernel` gives the product of two expanded tokens from the product of their bases, so that inside a chunk nothing wider
than D is ever multiplied. Each stage comes with its gradient, for code that does without autograd's records.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LOG2_E = 1.0 / math.log(2.0)


class FeatureMap:
    """The identity, and what the other maps change of it."""

    expands: ClassVar[bool] = False
    """whether there are more features than D"""

    def base(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return x

    def base_(self, x: Tensor) -> Tensor:
        """Do as `base`, and have x for scratch: less memory stays longer in the processor's cache."""
        return self.base(x)

    def base_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient by x where f = base(x)."""
        return grad

    def kernel(self, products: Tensor) -> Tensor:
        """Map products of bases to products of features."""
        return products

    def kernel_grad(self, products: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient by the products of bases."""
        return grad

    def expand(self, f: Tensor) -> Tensor:
        """Map bases (..., D) to features (..., m)."""
        return f

    def expand_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient by f (..., D) of the gradient by expand(f)."""
        return grad


class Elu1(FeatureMap):
    """elu(x) + 1: Katharopoulos et al. 2020 (arXiv 2006.16236), equation 7.

    Not computed as that sum, which cancels: in bfloat16 it is exactly zero from x = -7 down.
    """

    def base(self, x: Tensor) -> Tensor:
        """X + 1 above zero, exp(x) below; written without `where`, which CPUs do slowly."""
        below = x.clamp(max=0)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            # Torch's exp2 takes a quarter of the time of its exp in float32.
            return below.mul_(_LOG2_E).exp2_() + x.relu()
        return x.relu() + below.exp_()

    def base_(self, x: Tensor) -> Tensor:
        """Do as `base`, over x."""
        if x.device.type != "cpu":
            return self.base(x)
        below = x.clamp(max=0).mul_(_LOG2_E).exp2_()
        return x.clamp_(min=0).add_(below)

    def base_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """The slope is exp(x) = f up to zero and 1 from there on."""
        return grad * f.clamp(max=1)


class Relu(FeatureMap):
    """max(x, 0)."""

    def base(self, x: Tensor) -> Tensor:
        """Cut off what is negative."""
        return x.relu()

    def base_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """Nothing passes where f is zero."""
        return grad * (f > 0)


class Taylor2(FeatureMap):
    """1 + s + s^2 / 2 for s = q k / sqrt(D): Arora et al. 2024 (arXiv 2402.18668).

    The features are 1, the D numbers x / D^(1/4), and the D (D + 1) / 2 different products of two of them. Never below
    1/2, so the denominator is safe.
    """

    expands = True

    def base(self, x: Tensor) -> Tensor:
        """Give queries and keys each half of the factor 1 / sqrt(D)."""
        return x * x.shape[-1] ** -0.25

    def base_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """The same factor."""
        return grad * f.shape[-1] ** -0.25

    def kernel(self, products: Tensor) -> Tensor:
        """Evaluate the polynomial."""
        return 1 + products * (1 + products / 2)

    def kernel_grad(self, products: Tensor, grad: Tensor) -> Tensor:
        """Its derivative is 1 + s."""
        return grad * (1 + products)

    def expand(self, f: Tensor) -> Tensor:
        """Map (..., D) to (..., 1 + D + D (D + 1) / 2)."""
        i, j, factor = _pairs(f)
        return torch.cat((torch.ones_like(f[..., :1]), f, f[..., i] * f[..., j] * factor), -1)

    def expand_grad(self, f: Tensor, grad: Tensor) -> Tensor:
        """Each product passes its gradient to both of its factors."""
        D = f.shape[-1]
        i, j, factor = _pairs(f)
        square = f.new_zeros(*f.shape, D)
        square[..., i, j] = grad[..., 1 + D :] * factor
        square = square + square.mT
        return grad[..., 1 : 1 + D] + (square @ f[..., None])[..., 0]


def based(feature_map: FeatureMap, x: Tensor) -> Tensor:
    """Return base(x) for autograd to record, with the gradient of the map's own: a third of the passes over memory."""
    return feature_map.base(x) if torch.compiler.is_compiling() else _Based.apply(x, feature_map)


class _Based(torch.autograd.Function):
    """`base` with `base_grad`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, feature_map: FeatureMap) -> Tensor:
        """Return base(x)."""
        f = feature_map.base(x)
        ctx.save_for_backward(f)
        ctx.map = feature_map
        return f

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, None]:
        """Return the gradient by x."""
        return ctx.map.base_grad(*ctx.saved_tensors, grad_outputs[0]), None


def _pairs(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices i <= j of the products of two, and their factors: squares count half in s^2 / 2."""
    D = f.shape[-1]
    i, j = torch.triu_indices(D, D, device=f.device)
    return i, j, f.new_ones(len(i)).masked_fill(i == j, 0.5**0.5)


FEATURE_MAPS: dict[str, FeatureMap] = {
    "elu1": Elu1(),
    "relu": Relu(),
    "identity": FeatureMap(),
    "taylor2": Taylor2(),
}
"""By the names of --feature-map."""
