"""Speed of linear attention's kernels on a GPU, beside torch's fused softmax, our batched form compiled, and fla's.

Forward, and forward with backward, of 16 heads of 64 in bfloat16, from one projection (B, T, 3 H D) to (B, T, H, D), at
a constant number of tokens. fla's is given its features ready-made and computes no feature map. First the kernels'
numbers are compared with those of `batched` in float32; if they are off, nothing is measured and the exit code is 1.
Milliseconds of the GPU, the median of interleaved rounds. Takes less than a minute, most of which is compiling.

    python benchmarks/linear_gpu.py --out benchmarks/results/linear_gpu.json
    python benchmarks/linear_gpu.py --tune      # microseconds of each kernel, in chunks and warps of several sizes
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from _gpu_time import milliseconds
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vgpt.attention.linear import fused
from vgpt.attention.linear.chunked import batched, chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS

H, D, TOKENS = 16, 64, 65_536
LENGTHS = [1024, 4096, 16_384, 32_768]
LIMIT = 0.012
"""Most relative error of outputs and gradients: bfloat16 rounds by up to 0.004."""

Mixer = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ours."""
    return chunked_linear_attention(q, k, v)[0]


def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the batched form's, in float32."""
    return batched(q, k, v, None, None, FEATURE_MAPS["elu1"], 64, True, False)[0]


def softmax(backend: SDPBackend) -> Mixer:
    """Return torch's fused causal attention in one of its implementations."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    return run


def peers() -> dict[str, Mixer]:
    """Return all that is measured, by name; fla where it is installed."""
    found: dict[str, Mixer] = {
        "kernel": kernel,
        "SDPA cuDNN": softmax(SDPBackend.CUDNN_ATTENTION),
        "SDPA flash": softmax(SDPBackend.FLASH_ATTENTION),
    }
    try:
        from fla.ops.linear_attn import chunk_linear_attn
    except ImportError:
        print("fla is not installed: not measured")
    else:
        found["fla"] = lambda q, k, v: chunk_linear_attn(
            *(x.transpose(1, 2) for x in (q, k, v)), scale=1.0, normalize=True
        )[0].transpose(1, 2)
    return found


def heads(T: int, *, batch: int = 0, backward: bool = True, positive: bool = False) -> list[Tensor]:
    """Return queries, keys and values (B, H, T, D), views of one projection."""
    x = torch.randn(batch or TOKENS // T, T, 3 * H * D, device="cuda", dtype=torch.bfloat16)
    if positive:
        x = x.abs()
    return [part.unflatten(-1, (H, D)).transpose(1, 2).requires_grad_(backward) for part in x.chunk(3, -1)]


def errors(T: int) -> dict[str, float]:
    """Return relative errors of the kernels' outputs and gradients."""
    inputs = heads(T, batch=1)
    wide = [part.detach().float().requires_grad_() for part in inputs]
    y, want = kernel(*inputs), form(*wide)
    grad = torch.randn_like(y)
    found = [y, *torch.autograd.grad(y, inputs, grad)]
    right = [want, *torch.autograd.grad(want, wide, grad.float())]
    return {
        name: float(((a.float() - b).norm() / b.norm()).detach())
        for name, a, b in zip(("y", "dq", "dk", "dv"), found, right, strict=True)
    }


def timed(mixer: Mixer, T: int, *, backward: bool, positive: bool) -> Callable[[], float]:
    """Return a measurement in milliseconds, after a first call that compiles."""
    inputs = heads(T, backward=backward, positive=positive)
    grad = torch.randn(TOKENS // T, T, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2)

    def once() -> None:
        y = mixer(*inputs)
        if backward:
            torch.autograd.grad(y, inputs, grad)

    def measure(repeats: int = 5) -> float:
        return milliseconds(lambda: [once() for _ in range(repeats)]) / repeats

    once()
    measure(1)
    return measure


def measured(mixers: dict[str, Mixer], T: int, rounds: int) -> dict[str, Any]:
    """Measure mixers at one length: forward, and forward with backward."""
    result: dict[str, Any] = {"T": T, "B": TOKENS // T}
    for backward, name in ((False, "forward"), (True, "forward and backward")):
        subjects = {}
        for label, mixer in mixers.items():
            try:
                subjects[label] = timed(mixer, T, backward=backward, positive=label == "fla")
            except RuntimeError as error:
                print(f"{label} does not run at T={T}: {str(error).splitlines()[0]}")
        figures = interleave(subjects, rounds)
        ratios = {label: paired_ratio(figures[label], figures["kernel"]) for label in figures}
        line = "  ".join(f"{n} {summary(v)['median']:.2f} ms ({ratios[n]:.1f}x)" for n, v in figures.items())
        print(f"T={T:6} {name}: {line}", flush=True)
        result[name] = {"ms": {n: summary(v) for n, v in figures.items()}, "times_the_kernel": ratios}
    return result


def by_kernel(T: int) -> dict[str, float]:
    """Return microseconds of each kernel in one forward and backward pass."""
    inputs = heads(T)
    for _ in range(2):
        y = kernel(*inputs)
        torch.autograd.grad(y, inputs, torch.ones_like(y))
    grad = torch.randn_like(y)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(3):
            torch.autograd.grad(kernel(*inputs), inputs, grad)
        torch.cuda.synchronize()
    rows = {row.key: row.device_time_total / 3 for row in profile.key_averages()}
    return {name: round(us, 1) for name, us in sorted(rows.items(), key=lambda row: -row[1]) if us > 0.5}


def tune(T: int) -> list[dict[str, Any]]:
    """Measure each kernel in several plans; all chunks are of Hopper's 64 rows or twice that."""
    planned, found = fused.planned, []
    choices = [(64, 4, 2), (64, 4, 1), (64, 4, 3), (64, 8, 1), (64, 8, 2), (128, 8, 2)]
    for (chunk, warps, stages), tokens in [*itertools.product(choices, [512]), ((64, 4, 2), 256), ((64, 4, 2), 1024)]:
        plan = fused.Plan(chunk, warps, stages, min(tokens, T) // chunk)
        fused.planned = lambda q, v, plan=plan: plan
        try:
            row = {"plan": str(plan), "us": by_kernel(T)}
        except RuntimeError as error:
            row = {"plan": str(plan), "error": str(error)[:200]}
        finally:
            fused.planned = planned
        print(json.dumps({"T": T, "total": round(sum(row.get("us", {}).values()), 1), **row}), flush=True)
        found.append(row)
    return found


def main() -> None:
    """Check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
    parser.add_argument("--tune", action="store_true", help="measure each kernel in several plans, and nothing else")
    parser.add_argument("--no-fla", action="store_true", help="leave fla out, which tries many kernels for a minute")
    add_out(parser)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here: run this on a machine with an NVIDIA GPU")
    began = time.perf_counter()
    result: dict[str, Any] = {"benchmark": "linear_gpu", "hardware": hardware("triton", "fla-core"), "H": H, "D": D}
    result["errors"] = {T: errors(T) for T in (1000, 8192)}
    print(json.dumps({"hardware": result["hardware"], "errors": result["errors"]}), flush=True)
    worst = max(error for found in result["errors"].values() for error in found.values())
    if not worst <= LIMIT:
        raise SystemExit(f"the kernels are off by {worst:.2g}: nothing is measured")
    if args.tune:
        result["plans"] = {T: tune(T) for T in (4096, 16_384)}
    else:
        mixers = peers()
        if args.no_fla:
            mixers.pop("fla", None)
        result["lengths"] = [measured(mixers, T, args.rounds) for T in LENGTHS]
        result["kernels_us"] = {T: by_kernel(T) for T in LENGTHS}
        print(json.dumps(result["kernels_us"]), flush=True)
        write(args.out, result)
        # Last, because its compilation takes longest; one length is enough, for its time is linear in the tokens.
        compiled = {"kernel": kernel, "batched compiled": torch.compile(form, dynamic=False)}
        result["compiled"] = measured(compiled, 4096, args.rounds)
    result["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(result))
    write(args.out, result)


if __name__ == "__main__":
    main()
