"""Speed of the two ways to attend with one query per head: what vgpt/attention/kernels/single_query.py rests on.

Heads share one key/value head, as in mqa and in mla's absorbed form, so that the two ways differ most. Width 224 is
mla's: 192 latent features and 32 rotary ones, of which the first 192 are also the values.

    python benchmarks/single_query.py --rounds 9 --out benchmarks/results/single_query.json
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from torch import Tensor

from vgpt.attention.kernels.scores import PLAIN
from vgpt.attention.kernels.single_query import _by_products, _fused

HEADS = 12
LATENT = 192
WIDTHS = {64: "mqa", LATENT + 32: "mla"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ways(batch: int, keys: int, width: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Return both ways over the same numbers.

    Raises:
        SystemExit: they differ by more than the precision explains.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, n, s, width, generator=generator).to(dtype) for n, s in [(HEADS, 1), *[(1, keys)] * 2]
    )
    front = v
    if WIDTHS[width] == "mla":
        # As single_query_to_rows: bfloat16 products read whole rows, others the front of them.
        v, front = k, k if dtype is torch.bfloat16 else k[..., :LATENT]
    both = {
        "products": lambda: _by_products(q, k, front, None, None, PLAIN),
        "fused": lambda: _fused(q[:, :, 0], k, v, keys, min(HEADS, torch.get_num_threads()), None)[:, :, None],
    }
    wide = min(front.shape[-1], LATENT)
    gap = float((both["products"]()[..., :wide] - both["fused"]()[..., :wide]).abs().max())
    if gap > (1e-5 if dtype is torch.float32 else 0.05):
        raise SystemExit(f"the two ways differ by {gap:.2g}: nothing is reported")
    return both


def timed(way: Callable[[], Tensor], seconds: float) -> Callable[[], float]:
    """Return a measurement of a way in microseconds, repeated for about `seconds`."""

    def measure() -> float:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            way()
            count += 1
        return 1e6 * (time.perf_counter() - began) / count

    with torch.inference_mode():
        measure()  # warm
    return torch.inference_mode()(measure)


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="128,256,512,1024,4096", help="lengths of the context, by comma")
    parser.add_argument("--batches", default="1,16", help="batch sizes, by comma")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each way")
    parser.add_argument("--seconds", type=float, default=0.03, help="length of a measurement, about")
    add_out(parser)
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "single_query", "hardware": hardware(), "unit": "us", "cells": []}
    print(result["hardware"])
    for batch in map(int, args.batches.split(",")):
        for name, dtype in DTYPES.items():
            for width in WIDTHS:
                for keys in map(int, args.keys.split(",")):
                    both = ways(batch, keys, width, dtype)
                    figures = interleave({n: timed(way, args.seconds) for n, way in both.items()}, args.rounds)
                    ratio = paired_ratio(figures["products"], figures["fused"])
                    medians = {n: summary(values) for n, values in figures.items()}
                    line = "  ".join(f"{n} {value['median']:8.1f} us" for n, value in medians.items())
                    print(f"batch {batch:2} {name} width {width:3} keys {keys:5}: {line}  {ratio:.2f}x", flush=True)
                    cell = {"batch": batch, "dtype": name, "width": width, "keys": keys}
                    result["cells"].append({**cell, "us": medians, "fused_faster": ratio})
    write(args.out, result)


if __name__ == "__main__":
    main()
