"""Speed of the attention of each variant beside full causal attention by torch's fused kernel, forward and backward.

What is measured is attention (scores and values) alone, without the layer's projections: from queries, keys and values
as the projection leaves them, (B, T, 3 H D), to the heads' outputs (B, T, H D), by the path that the layer itself takes
there. The shape is that of GPT-2 small (12 heads of width 64). All subjects and lengths take turns in one process, so
that drift of the machine meets all alike. Before that each must agree with the plain formula. The process keeps freed
memory, as `vgpt train` has it: else pages taken anew add up to a fifth to the time of the fast ones at 8192 tokens.

`cost of 2x` is the time at twice the tokens: 2 for what is linear in T, 4 for what is quadratic.

    python benchmarks/attention.py --out benchmarks/results/attention.json
    python benchmarks/attention.py --variants local:window_size=512 --dtypes bf16 --lengths 2048,4096 --memory
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.errors import VgptError
from vgpt.training.hardware.memory import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
HEADS, WIDTH = 12, 64
BASELINE = "sdpa"
VARIANTS = ["mha", "local:window_size=128", "linear", "sparse"]
# What this project asks of itself on a CPU: times as fast as the baseline at that many tokens.
GOALS = {"local": {4096: 4.0, 8192: 9.0}, "linear": {4096: 4.0, 8192: 8.0}, "sparse": {4096: 2.0, 8192: 5.0}}
SHORT = {"at": 256, "least": 0.9}
"""Of every variant in every length up to this."""
MOST_FOR_DOUBLING = 2.3
NONE: dict[int, float] = {}

Core = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From heads (B, T, H, D) to outputs (B, T, H, D)."""


def layer(attn: str, device: str, *, flash: bool = True) -> CausalSelfAttention:
    """Return a layer of the variant; its parameters are not needed."""
    shape = Shape(n_embd=HEADS * WIDTH, n_head=HEADS, block_size=8192, flash=flash)
    return build_attention(resolve_attention(attn), shape).to(device)


def softmax_core(module: Any) -> Core:
    """Return what a layer with multi-head attention's projections does between them."""

    def core(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return module._attend(*(x.transpose(1, 2) for x in (q, k, v)), None).transpose(1, 2)

    return core


def linear_core(module: Any) -> Core:
    """Return what linear attention does between its projections."""
    return lambda q, k, v: module._attend(q, k, v, None, None, None).transpose(1, 2).to(v.dtype)


# By kind: how to get at the part between the projections.
CORES: dict[str, Callable[[Any], Core]] = {
    "mha": softmax_core,
    "local": softmax_core,
    "sparse": softmax_core,
    "linear": linear_core,
}


def core_of(attn: str, device: str, *, flash: bool = True) -> Core:
    """Return the core of a variant.

    Raises:
        VgptError: there is no such variant, or none whose core has these inputs.
    """
    if attn == BASELINE:
        return lambda q, k, v: F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
        ).transpose(1, 2)
    module = layer(attn, device, flash=flash)
    if module.config.kind not in CORES:
        raise VgptError(f"{attn} has no core that maps queries, keys and values of {HEADS} heads to their outputs")
    return CORES[module.config.kind](module)


def inputs(B: int, T: int, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """Return fused projections (B, T, 3 H D), as a layer makes them, and a gradient (B, T, H D)."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.empty(B, T, n * HEADS * WIDTH).normal_(generator=generator) for n in (3, 1))
    return x.to(device, DTYPES[dtype]).requires_grad_(), gradient.to(device, DTYPES[dtype])


def once(core: Core, x: Tensor, gradient: Tensor) -> Tensor:
    """Go forward and backward; return the outputs (B, T, H D)."""
    x.grad = None
    q, k, v = (part.unflatten(-1, (HEADS, WIDTH)) for part in x.chunk(3, -1))
    y = core(q, k, v).reshape(gradient.shape)
    y.backward(gradient)
    return y.detach()


def check(attn: str, dtype: str, device: str) -> float:
    """Return how far outputs and gradients lie from the plain formula's; a fast wrong answer is worth nothing.

    Raises:
        SystemExit: by more than the precision explains.
    """
    x, gradient = inputs(2, 700, dtype, device)
    exact = x.detach().float().requires_grad_()
    pairs = [(once(core_of(attn, device), x, gradient), x), (once(reference(attn, device), exact, gradient), exact)]
    (got, ours), (want, theirs) = ((y.float(), z.grad.float()) for y, z in pairs)
    gap = max(float((a - b).norm() / b.norm()) for a, b in ((got, want), (ours, theirs)))
    if not gap < TOLERANCE[dtype]:
        raise SystemExit(f"{attn}: differs from the plain formula by {gap:.2g}: nothing is reported")
    return gap


def reference(attn: str, device: str) -> Core:
    """Return the plain formula of a variant."""
    return core_of("mha" if attn == BASELINE else attn, device, flash=False)


def subject(attn: str, B: int, T: int, dtype: str, device: str) -> Callable[[], float]:
    """Warm up and return a measurement in milliseconds of one forward and backward pass."""
    core, (x, gradient) = core_of(attn, device), inputs(B, T, dtype, device)
    on_gpu = device == "cuda"
    # Processor time suffers least where other work runs beside; a GPU has none.
    clock = time.perf_counter if on_gpu else time.process_time
    repeats = 10 if on_gpu else max(1, 4096 // (B * T))

    def measure() -> float:
        # As in training, which repeats itself: memory that the subject before gave back is taken before the clock runs.
        once(core, x, gradient)
        if on_gpu:
            torch.cuda.synchronize()
        start = clock()
        for _ in range(repeats):
            once(core, x, gradient)
        if on_gpu:
            torch.cuda.synchronize()
        return (clock() - start) / repeats * 1e3

    measure()
    return measure


def peak(attn: str, B: int, T: int, dtype: str, device: str) -> int:
    """Return the bytes that one forward and backward pass takes beside its inputs, at most, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (attn, B, T, dtype, device, torch.get_num_threads()))


def _peak(attn: str, B: int, T: int, dtype: str, device: str, threads: int) -> int:
    torch.set_num_threads(threads)
    core = core_of(attn, device)
    once(core, *inputs(1, 256, dtype, device))  # libraries take what they need once
    x, gradient = inputs(B, T, dtype, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(core, x, gradient)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark falls to what is there now
    before = _high_water()
    once(core, x, gradient)
    return _high_water() - before


def _high_water() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def report(attn: str, figures: dict[tuple[str, int], list[float]], lengths: list[int], goals: dict) -> dict[str, Any]:
    """Print one subject's line and return its record."""
    record: dict[str, Any] = {"ms": {}, "faster": {}, "doubling": {}, "missed": []}
    cells: list[str] = []
    for T in lengths:
        ms = record["ms"][T] = summary(figures[attn, T])
        ratio = record["faster"][T] = paired_ratio(figures[BASELINE, T], figures[attn, T])
        cells.append(f"{ms['median']:8.1f} ms {ratio:5.2f}x")
        goal = goals.get(T, SHORT["least"] if goals is not NONE and SHORT["at"] >= T else 0)
        if ratio < goal:
            record["missed"].append(f"{ratio:.2f}x at {T}, not {goal}x")
    for T in lengths:
        if 2 * T in lengths:
            record["doubling"][T] = paired_ratio(figures[attn, 2 * T], figures[attn, T])
    doubling = ", ".join(f"{T}: {cost:.2f}" for T, cost in record["doubling"].items())
    if goals.get(4096) and record["doubling"].get(4096, 0) > MOST_FOR_DOUBLING:
        record["missed"].append(f"doubling 4096 costs {record['doubling'][4096]:.2f}, not {MOST_FOR_DOUBLING}")
    print(f"  {attn:22} {'  '.join(cells)}   cost of 2x {doubling or '-'}", flush=True)
    for miss in record["missed"]:
        print(f"  {'':22} below its goal: {miss}")
    return record


def run(names: list[str], args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Measure all subjects in one precision and print their table."""
    gaps = {name: check(name, dtype, args.device) for name in names}
    subjects = {(n, T): subject(n, args.batch, T, dtype, args.device) for T in args.lengths for n in names}
    figures: dict[tuple[str, int], list[float]] = interleave(subjects, args.rounds)  # type: ignore[arg-type]
    print(f"\n{dtype}, batch {args.batch}, T = {', '.join(map(str, args.lengths))}")
    on_cpu = args.device == "cpu"
    wanted = {n: GOALS.get(n.partition(":")[0], {}) if on_cpu and n != BASELINE else NONE for n in names}
    records = {n: report(n, figures, args.lengths, wanted[n]) for n in names}
    for name in names:
        records[name]["gap"] = gaps[name]
        if args.memory:
            T = args.lengths[-1]
            taken = records[name]["peak_bytes"] = peak(name, args.batch, T, dtype, args.device)
            print(f"  {name:22} takes {taken / 2**20:8.1f} MiB at most at T = {T}", flush=True)
    return records


def known(names: list[str], device: str) -> list[str]:
    """Return the baseline and the variants that are there; say of the others why they are not."""
    found = [BASELINE]
    for name in names:
        try:
            core_of(name, device)
        except VgptError as error:
            print(f"skipped {name}: {error.message}")
        else:
            found.append(name)
    return found


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="as for --attn, settings included")
    parser.add_argument("--lengths", default="64,128,256,1024,2048,4096,8192", help="tokens, by comma")
    parser.add_argument("--dtypes", default="fp32,bf16", help="of fp32, bf16, by comma")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each subject and length")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--memory", action="store_true", help="measure peak memory at the last length too (on Linux)")
    add_out(parser)
    args = parser.parse_args()
    kept = keep_freed_memory()
    args.lengths = sorted(map(int, args.lengths.split(",")))
    machine = hardware()
    print(machine)
    names = known(args.variants, args.device)
    results = {dtype: run(names, args, dtype) for dtype in args.dtypes.split(",")}
    case = {"batch": args.batch, "heads": HEADS, "width": WIDTH, "device": args.device, "memory_kept": kept}
    write(args.out, {"benchmark": "attention", "hardware": machine, "case": case, "results": results})


if __name__ == "__main__":
    main()
