"""Linear layers in float32 on processors for which torch's own library of products holds back.

MKL, through which torch multiplies matrices of float32, uses the 512-bit instructions of Intel's processors alone.
oneDNN, through which torch multiplies those of bfloat16, uses them wherever they are. Speed of its float32 products
relative to MKL's on one core of an AMD EPYC with AVX-512, torch 2.13, widths 384 to 3,072 and 1,024 rows: forward and
gradient by the input 2.1 to 2.3, gradient by the weight 1.8 to 2.0. Both are IEEE float32; only the order of their sums
differs.

In bfloat16 both ways end in oneDNN, but torch's own first copies the bias to where the product is added to it.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Multiplications from which on the product's gain exceeds the cost of starting it.
_FEWEST = 1 << 21
_FEWEST_IN_HALF = 1 << 28


class Linear(nn.Linear):
    """A linear layer that multiplies in whichever way is fast where it runs; parameters as those of `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., K) to (..., N)."""
        return linear(input, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Make every plain linear layer of `model` a `Linear`, those of plug-ins included, so that all compare fairly."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,).
    """
    if _pays(x, weight):
        return _Linear.apply(x, weight, bias)
    if bias is not None and _pays_in_half(x, weight):
        return _HalfLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


@cache
def vendor() -> str:
    """Return the processor's maker as it spells itself, such as "GenuineIntel" or "AuthenticAMD"; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def matmul(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return left @ right of matrices (M, K) and (K, N), without a record for gradients; in `out` where given."""
    if not _pays(left, right.t()):
        return torch.mm(left, right, out=out)
    y = _product(left, right.t())
    return y if out is None else out.copy_(y)


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN should multiply (..., K) with (N, K)."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and x.numel() * weight.shape[0] >= _FEWEST
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def _pays_in_half(x: Tensor, weight: Tensor) -> bool:
    """Return whether training under autocast to bfloat16 should multiply (..., K) with (N, K) here."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and torch.is_grad_enabled()
        and x.numel() * weight.shape[0] >= _FEWEST_IN_HALF
        and onednn_is_faster()
    )


@cache
def onednn_is_faster() -> bool:
    """Return whether torch has oneDNN here and MKL would leave the 512-bit instructions unused."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and vendor() == "AuthenticAMD"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left right^T + bias of (..., K) and (N, K) of any strides, by oneDNN."""
    return _multiply(left, right, bias, "none", [], "")


def _multiply(*arguments: Any) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(*arguments)


def _gradients(
    ctx: Any, grad: Tensor, product: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias, as far as they are asked for.

    Args:
        ctx: has (..., K) and (N, K), the saved input and weight.
        grad: of the output, (..., N).
        product: computes left right^T.
    """
    x, weight = ctx.saved_tensors
    rows = grad.reshape(-1, grad.shape[-1])
    by_x, by_weight, by_bias = ctx.needs_input_grad
    d_x = product(rows, weight.t()).view(x.shape) if by_x else None
    d_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if by_weight else None
    return d_x, d_weight, rows.sum(0) if by_bias else None


class _Linear(torch.autograd.Function):
    """The product and its two gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (..., N)."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, weight and bias."""
        return _gradients(ctx, grad_outputs[0], _product)


class _HalfLinear(torch.autograd.Function):
    """The product in bfloat16 of numbers in float32 or bfloat16, as autocast rounds them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return (..., N) in bfloat16."""
        low_x, low_weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(low_x, low_weight)
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        return _product(low_x, low_weight, bias.to(torch.bfloat16))

    @staticmethod
    @once_differentiable  # untyped, hence:
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, weight and bias, each in its own type."""
        found = _gradients(ctx, grad_outputs[0], lambda left, right: left @ right.t())
        d_x, d_weight, d_bias = (
            one if one is None else one.to(dtype) for one, dtype in zip(found, ctx.dtypes, strict=True)
        )
        return d_x, d_weight, d_bias
