"""Time and memory of training steps where the process keeps freed memory, beside glibc's defaults.

The measurement behind vgpt/training/hardware/memory.py. Each figure is that of a fresh process, and the two take
turns; steps and shapes are those of train_step.py.

    python benchmarks/kept_memory.py --rounds 3 --out benchmarks/results/kept_memory.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from train_step import CASES, DTYPES, vgpt_step

from vgpt.training.hardware.memory import keep_freed_memory
from vgpt.training.hardware.peak import peak_resident

SUBJECTS = ("default", "kept")
WARM = 3


def child(subject: str, shape: str, dtype: str, steps: int) -> None:
    """Train a few steps in this process and print milliseconds per step, their median, and peak bytes."""
    if subject == "kept" and not keep_freed_memory():
        raise SystemExit("this process cannot keep freed memory: no glibc, or the environment says otherwise")
    case = CASES[shape]
    step = vgpt_step(case, DTYPES[dtype])
    ids = torch.randint(case.V, (case.B, case.T + 1), generator=torch.Generator().manual_seed(0))
    times: list[float] = []
    for _ in range(WARM + steps):
        began = time.perf_counter()
        step(ids)
        times.append(1000 * (time.perf_counter() - began))
    print(json.dumps({"ms": statistics.median(times[WARM:]), "peak": peak_resident()}))


def measured(subject: str, shape: str, dtype: str, steps: int, peaks: list[int]) -> Callable[[], float]:
    """Return a measurement in a process of its own; it notes the peak."""

    def measure() -> float:
        words = [sys.executable, __file__, "--child", subject, shape, dtype, str(steps)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        told = json.loads(done.stdout)
        peaks.append(told["peak"])
        return told["ms"]

    return measure


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="small,medium,gpt2", help=f"of {', '.join(CASES)}, by comma")
    parser.add_argument("--dtypes", default="fp32,bf16", help="of fp32, bf16, by comma")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind")
    parser.add_argument("--length", type=float, default=5.0, help="how many times train_step.py's steps each trains")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    add_out(parser)
    args = parser.parse_args()
    if args.child:
        subject, shape, dtype, steps = args.child
        child(subject, shape, dtype, int(steps))
        return
    machine = hardware()
    print(machine)
    table: dict[str, dict] = {}
    for shape in args.shapes.split(","):
        for dtype in args.dtypes.split(","):
            peaks: dict[str, list[int]] = {name: [] for name in SUBJECTS}
            steps = max(3, round(CASES[shape].steps * args.length))
            figures = interleave(
                {name: measured(name, shape, dtype, steps, peaks[name]) for name in SUBJECTS}, args.rounds
            )
            faster = paired_ratio(figures["default"], figures["kept"])
            memory = {name: statistics.median(values) for name, values in peaks.items()}
            ms = {name: summary(values) for name, values in figures.items()}
            cells = (f"{name} {ms[name]['median']:8.1f} ms {memory[name] / 2**20:6.0f} MiB" for name in SUBJECTS)
            print(f"  {shape:6} {dtype}: {'   '.join(cells)}   {faster:.2f}x", flush=True)
            table[f"{shape} {dtype}"] = {"ms": ms, "peak_bytes": memory, "faster": faster}
    write(args.out, {"benchmark": "kept_memory", "hardware": machine, "results": table})


if __name__ == "__main__":
    main()
