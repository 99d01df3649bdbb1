"""Local and sparse attention through FlexAttention beside causal attention, by the block size of their masks.

    python benchmarks/flex_gpu.py --out benchmarks/results/flex_gpu.json

The measurement behind `BLOCK_SIZES` in vgpt/attention/kernels/flex.py: B * T = 65,536 tokens, 16 heads of width 64,
bfloat16, milliseconds forward and forward + backward, with `times` telling by how much a window or links are faster
than the faster of cuDNN and flash; what it takes to make the masks. Within a minute, most of which goes to compilers;
what no longer fits in `--seconds` is left out and named. On a CPU `--toy` tries the script.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from _gpu_time import median_ms, on_gpu
from _hardware import add_out, hardware, write
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.kernels.block_masks import looked_up_mask, window_mask
from vgpt.attention.kernels.flex import flex_attend
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.sparse.block_mask import sparse_mask
from vgpt.attention.sparse.config import SparseConfig

HEADS, WIDTH, TOKENS = 16, 64, 65_536
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def makers(tokens: int, device: torch.device) -> dict[str, Callable[[], BlockMask]]:
    """Return what makes each mask."""
    found: dict[str, Callable[[], BlockMask]] = {}
    for size in (128, 64):
        found[f"local, blocks of {size}"] = lambda size=size: window_mask(256, tokens, size, device)
        found[f"sparse, blocks of {size}"] = lambda size=size: sparse_mask(
            SparseConfig(), 0, HEADS, tokens, size, device
        )
    found["looked up (the mask of a plug-in), blocks of 128"] = lambda: looked_up_mask(
        LocalConfig().visible, tokens, 128, device
    )
    return found


def mask_costs(tokens: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return milliseconds and peak MiB of making each mask, and what it holds."""
    costs = {}
    for name, make in makers(tokens, device).items():
        make()  # tables of links are made once and kept
        if on_gpu():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begun = time.perf_counter()
        mask = make()
        if on_gpu():
            torch.cuda.synchronize()
        taken = {"ms": round(1e3 * (time.perf_counter() - begun), 2)}
        if on_gpu():
            taken["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
        held = [getattr(mask, f"{side}_indices").nbytes for side in ("kv", "full_kv", "q", "full_q")]
        costs[name] = taken | {"held_mib": round(sum(held) / 2**20, 3)}
    return costs


def subjects(tokens: int, device: torch.device) -> dict[str, Attend]:
    """Return the ways to attend, those to compare with first."""

    def causal(backend: SDPBackend) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        return attend

    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    found = {f"causal, {name}": causal(backend) for name, backend in backends.items()}
    if not on_gpu():
        found = {"causal, math": causal(SDPBackend.MATH)}
    for name, make in makers(tokens, device).items():
        if not name.startswith("looked"):
            found[name] = lambda q, k, v, make=make, made=[]: flex_attend(q, k, v, _first(made, make))
    return found


def _first(made: list[BlockMask], make: Callable[[], BlockMask]) -> BlockMask:
    if not made:
        made.append(make())
    return made[0]


def speeds(tokens: int, batch: int, device: torch.device, deadline: float) -> dict[str, Any]:
    """Return milliseconds of each way to attend, and how many times faster than causal attention it is."""
    dtype = torch.bfloat16 if on_gpu() else torch.float32
    q, k, v = (torch.randn(batch, HEADS, tokens, WIDTH, device=device, dtype=dtype) for _ in range(3))
    inputs = [x.requires_grad_(on_gpu()) for x in (q, k, v)]  # the kernel's uncompiled form has no gradients on CPUs
    gradient = torch.randn_like(q)
    found: dict[str, Any] = {}
    for name, attend in subjects(tokens, device).items():
        if time.perf_counter() > deadline:
            found[name] = "left out: no time"
            continue

        def both(attend: Attend = attend) -> None:
            torch.autograd.grad(attend(*inputs), inputs, gradient)

        begun = time.perf_counter()
        try:
            taken = {"forward_ms": round(median_ms(lambda attend=attend: attend(*inputs), 7, 2), 3)}
            if on_gpu():
                taken["forward_backward_ms"] = round(median_ms(both, 7, 2), 3)
        except Exception as error:  # noqa: BLE001  # one kernel that fails must not hide the others
            found[name] = f"failed: {type(error).__name__}: {error}"[:500]
            continue
        found[name] = taken | {"seconds_in_all": round(time.perf_counter() - begun, 1)}
        print(f"  {tokens}: {name}: {found[name]}", flush=True)
    _compare(found)
    return found


def _compare(found: dict[str, Any]) -> None:
    measured = {name: taken for name, taken in found.items() if isinstance(taken, dict)}
    for key in ("forward_ms", "forward_backward_ms"):
        causal = [taken[key] for name, taken in measured.items() if name.startswith("causal") and key in taken]
        for name, taken in measured.items():
            if causal and key in taken and not name.startswith("causal"):
                taken[f"times_{key.removesuffix('_ms')}"] = round(min(causal) / taken[key], 2)


def measure(lengths: list[int], all_tokens: int, mask_lengths: list[int], seconds: float) -> dict[str, Any]:
    """Return all figures; the longest sequences, which matter most, come first."""
    device = torch.device("cuda", 0) if on_gpu() else torch.device("cpu")
    deadline = time.perf_counter() + seconds
    result: dict[str, Any] = {"hardware": hardware("triton"), "masks": {}, "speeds": {}}
    for tokens in mask_lengths:
        result["masks"][str(tokens)] = mask_costs(tokens, device)
    for tokens in sorted(lengths, reverse=True):
        result["speeds"][str(tokens)] = speeds(tokens, all_tokens // tokens, device, deadline)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=50, help="no new measurement begins after these")
    parser.add_argument("--toy", action="store_true", help="short sequences, to try the script")
    add_out(parser)
    arguments = parser.parse_args()
    if arguments.toy:
        result = measure([512], 1024, [512, 1024], arguments.seconds)
    else:
        result = measure([4096, 16_384], TOKENS, [4096, 16_384, 32_768], arguments.seconds)
    print(json.dumps(result, indent=2))
    write(arguments.out, result)


if __name__ == "__main__":
    main()
