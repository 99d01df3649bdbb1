"""Compile the kernels of linear attention for GPUs that need not be there, and print the shared memory that they take.

A script, because triton must not have been asked for its interpreter before it is imported.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vgpt.attention.linear import fused, kernels
from vgpt.attention.linear.features import FEATURE_MAPS

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
KERNELS = {
    name: getattr(kernels, name)
    for name in ("key_sums", "accumulate", "attend", "query_sums", "query_gradients", "key_gradients")
}


class Launches:
    """Stands in for a kernel and keeps what it would be launched with."""

    def __init__(self):
        self.last = ()

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **constants):
        self.last = arguments, constants


def shared_memory(kernel, arguments, constants, capability):
    """Compile a kernel for what it is launched with; return bytes of shared memory."""
    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    fixed = {name: value for name, value in constants.items() if name not in options}
    signature, attributes = dict.fromkeys(kernel.arg_names, "constexpr"), {}
    for i, value in enumerate(arguments):
        parameter = kernel.params[i]
        number = not isinstance(value, torch.Tensor)
        if number and value == 1 and not parameter.do_not_specialize:
            fixed[parameter.name] = 1
            continue
        kind = "fp32" if isinstance(value, float) else "i32"
        signature[parameter.name] = kind if number else POINTERS[value.dtype]
        if not number or (value % 16 == 0 and not parameter.do_not_specialize):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared


def compile_all(capability, dtype, width, normalize, decay):
    """Launch one forward and backward pass of several segments, and compile what is launched."""
    launches = {name: Launches() for name in KERNELS}
    for name, launch in launches.items():
        setattr(kernels, name, launch)
    kind = getattr(torch, dtype)
    plan = fused.plan(64, 4096, width, kind != torch.bfloat16, capability // 10, 132)
    fused.planned = lambda q, v: plan
    x = torch.zeros(1, 4096, 2, 3 * width, dtype=kind)
    inputs = [part.transpose(1, 2).requires_grad_() for part in x.split(width, -1)]
    y = fused.fused(*inputs, torch.ones(2) if decay else None, FEATURE_MAPS["elu1"], normalize)
    y.backward(torch.zeros_like(y))
    return {name: shared_memory(KERNELS[name], *launch.last, capability) for name, launch in launches.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps([compile_all(**task) for task in json.loads(sys.stdin.read())]))
