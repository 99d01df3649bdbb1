"""Speed of the attention backends of vgpt here: the measurement behind the rule in vgpt/attention/kernels/backends.py.

Forward and backward from fused projections (B, T, (H + 2G) D) to (B, T, H D), so that each backend pays for its own
copies. Figures are milliseconds of processor time, which suffers least where other work runs beside.

    python benchmarks/attention_backends.py --rounds 7 --out benchmarks/results/attention_backends.json
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.kernels.backends import blockwise, naive

# (B, T, H, G, D)
SHAPES = [
    (16, 64, 4, 4, 32),
    (8, 128, 6, 6, 64),
    (4, 256, 6, 6, 64),
    (4, 256, 6, 2, 64),
    (2, 512, 12, 12, 64),
    (1, 1024, 12, 12, 64),
    (1, 1024, 12, 4, 64),
    (1, 2048, 12, 12, 64),
]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def textbook(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The naive formula."""
    return naive(q, k, v, torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril())


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"sdpa": sdpa, "blocks": blockwise, "naive": textbook}


def subject(backend: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], float]:
    """Return a function that gives the milliseconds of one forward and backward pass."""
    B, T, H, G, D = shape
    x = torch.randn(B, T, (H + 2 * G) * D, dtype=dtype, requires_grad=True)
    gradient = torch.randn(B, T, H * D, dtype=dtype)
    repeats = max(1, 2**18 // (B * T * T))

    def once() -> None:
        x.grad = None
        q, k, v = (part.view(B, T, -1, D).transpose(1, 2) for part in x.split([H * D, G * D, G * D], -1))
        backend(q, k, v).transpose(1, 2).reshape(B, T, -1).backward(gradient)

    def measure() -> float:
        start = time.process_time()
        for _ in range(repeats):
            once()
        return (time.process_time() - start) / repeats * 1e3

    once()
    return measure


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each backend")
    add_out(parser)
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "attention_backends", "hardware": hardware(), "shapes": []}
    print(result["hardware"])
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            figures = interleave({n: subject(f, shape, dtype) for n, f in BACKENDS.items()}, args.rounds)
            ratios = {name: paired_ratio(figures["sdpa"], values) for name, values in figures.items()}
            line = "  ".join(f"{n} {summary(v)['median']:7.2f} ms ({ratios[n]:.2f}x)" for n, v in figures.items())
            print(f"{dtype!s:15} B,T,H,G,D={shape}: {line}", flush=True)
            record = {n: summary(v) for n, v in figures.items()}
            result["shapes"].append({"shape": shape, "dtype": str(dtype), "ms": record, "faster_than_sdpa": ratios})
    write(args.out, result)


if __name__ == "__main__":
    main()
