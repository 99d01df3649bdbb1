"""Run the kernels of linear attention in Triton's interpreter, on a CPU, and print how far they are from the formula.

A script, because the interpreter must be asked for before triton is imported.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import sys

import numpy as np
import torch
import triton.language as tl
from triton import jit
from triton.runtime import interpreter

from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear import fused, kernels, tiles
from vgpt.attention.linear.features import FEATURE_MAPS
from vgpt.attention.linear.naive import quadratic_linear_attention

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def mend_the_interpreter() -> None:
    """Triton 3.6 multiplies the bits of bfloat16 as if they were integers, and reads scalars as NumPy 2.4 forbids."""
    product, patch = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang_tensor

    def wide(x):
        if x.dtype != tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return product(self, wide(a), wide(b), d, input_precision, max_num_imprecise_acc)

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter.InterpreterBuilder.create_dot = dot
    interpreter._patch_lang_tensor = patched


def heads(dtype, B, H, T, widths, size=1.0, seed=0):
    """Views (B, H, T, width) of one projection (B, T, H, sum of widths)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(B, T, H, sum(widths)).normal_(generator=generator)
    x[..., : widths[0] + widths[1]] *= size
    return [part.transpose(1, 2).requires_grad_() for part in x.to(dtype).split(list(widths), -1)]


def distance(got, want, least=1e-300):
    return float((got.double() - want).norm() / want.norm().clamp(min=least))


def errors(dtype, T, D, DV, feature_map="elu1", normalize=True, decay=False, B=1, H=1, chunks=2, size=1.0, odd=False):
    """Relative distance of outputs and gradients from the formula in float64."""
    fused.planned = lambda q, v: fused.Plan(chunk=16, warps=4, stages=1, chunks=chunks)
    inputs = heads(DTYPES[dtype], B, H, T, (D, D, DV), size)
    if odd:  # the width is not the innermost dimension, and one tensor has a head for all
        q, k, v = (x.detach() for x in inputs)
        k = k[:, :1].expand_as(k)
        inputs = [x.mT.contiguous().mT.requires_grad_() if x is q else x.requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    slopes = alibi_slopes(H) if decay else None
    y = fused.fused(*inputs, slopes, FEATURE_MAPS[feature_map], normalize)
    settings = {"feature_map": FEATURE_MAPS[feature_map], "slopes": slopes, "normalize": normalize}
    want, _ = quadratic_linear_attention(*exact, **settings)
    grad = torch.empty(B, T, H, DV).normal_(generator=torch.Generator().manual_seed(5)).to(y.dtype).transpose(1, 2)
    found = {"y": distance(y, want)}
    gradients = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(want, exact, grad.double())
    least = float(grad.double().norm()) / 100  # after one token alone, outputs hardly depend on queries and keys
    found |= {name: distance(a, b, least) for name, a, b in zip("qkv", *gradients, strict=True)}
    tensors = [y, *gradients[0]]
    found["finite"] = all(bool(x.isfinite().all()) for x in tensors)
    found["as_heads"] = all(x.transpose(1, 2).is_contiguous() and x.dtype == y.dtype for x in tensors)
    return found


def future():
    """Outputs of the past, with and without an overflow after them."""
    fused.planned = lambda q, v: fused.Plan(chunk=16, warps=4, stages=1, chunks=2)
    q, k, v = (x.detach() for x in heads(torch.bfloat16, 1, 1, 40, (8, 8, 8)))
    past = []
    for value in (1.0, 3e38):
        k[:, :, 21:] = value
        past.append(fused.fused(q, k, v, alibi_slopes(1), FEATURE_MAPS["elu1"], True)[:, :, :21])
    return {"equal": torch.equal(*past)}


def operation():
    """What torch says of the operation: schema, shapes and strides without data, gradients, tracing."""
    fused.planned = lambda q, v: fused.Plan(chunk=16, warps=4, stages=1, chunks=1)
    inputs = heads(torch.float16, 1, 1, 20, (4, 4, 3))
    found = torch.library.opcheck(torch.ops.vgpt.linear_attention, (*inputs, alibi_slopes(1), "elu1", True))
    found |= torch.library.opcheck(torch.ops.vgpt.linear_attention, (*inputs, None, "identity", False))
    y = fused.fused(*inputs, None, FEATURE_MAPS["elu1"], True)
    (first,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    try:
        torch.autograd.grad(first.sum(), inputs[1])
        found["twice"] = "differentiated without an error"
    except RuntimeError as error:
        found["twice"] = str(error)
    with torch.inference_mode():
        found["inference"] = bool(torch.equal(fused.fused(*inputs, None, FEATURE_MAPS["elu1"], True), y))
    return found


@jit
def _causal_without_itself(scores, slopes, h, later, earlier, DECAY: tl.constexpr):
    return tl.where(later > earlier, scores, 0.0)


@jit
def _fading_not_over_chunks(slopes, h, DECAY: tl.constexpr, C: tl.constexpr):
    rows = tl.arange(0, C)
    rate = tl.load(slopes + h)
    return tl.exp(-rate * (rows + 1)), tl.exp(-rate * (C - 1 - rows)), 1.0


@jit
def _through_everywhere(f, grad, MAP: tl.constexpr):
    return grad


def _features_of_padding(base, stride_t, stride_d, first, T, MAP, C, WIDTH, BLOCK):
    return tiles.features(tiles.load(base, stride_t, stride_d, first, T, C, WIDTH, BLOCK), MAP)


BUGS = {
    "causal": _causal_without_itself,
    "fading": _fading_not_over_chunks,
    "through": _through_everywhere,
    "load_features": jit(_features_of_padding),
}


def planted(name, **case):
    """Errors with one part of the kernels replaced by a wrong one."""
    right = getattr(kernels, name)
    setattr(kernels, name, BUGS[name])
    try:
        return errors(**case)
    finally:
        setattr(kernels, name, right)


def main() -> None:
    """Answer a list of [function, arguments] with a list of what they return."""
    mend_the_interpreter()
    tasks = {"errors": errors, "future": future, "operation": operation, "planted": planted}
    sys.stdout.write(json.dumps([tasks[name](**arguments) for name, arguments in json.loads(sys.stdin.read())]))


if __name__ == "__main__":
    main()
