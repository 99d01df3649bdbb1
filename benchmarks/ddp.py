"""Tokens per second of one process and of two (DDP, FSDP2) on the CPU, by whole `vgpt train` runs in turn.

Every run sees the same batches: one process with two micro-steps a step, two processes with one each. Each process has
one thread, so that two have twice the cores of one; `scaling` is tokens per second over those of one process.

    python benchmarks/ddp.py --rounds 3 --out benchmarks/results/ddp.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _hardware import add_out, hardware, interleave, paired_ratio, summary, write

import vgpt

ROOT = Path(vgpt.__file__).parents[1]
SUBJECTS = {
    "one process": ("--nproc", "1", "--grad-accum", "2"),
    "two, ddp": ("--nproc", "2", "--parallel", "ddp"),
    "two, fsdp": ("--nproc", "2", "--parallel", "fsdp"),
}


def command(place: Path, *words: str) -> str:
    """Run vgpt in a folder and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vgpt", *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def measured(place: Path, args: argparse.Namespace, words: tuple[str, ...]) -> Callable[[], float]:
    """Return a measurement of the tokens per second of one run."""
    count = iter(range(10**6))

    def measure() -> float:
        name = f"{'-'.join(words).strip('-').replace('--', '-')}-{next(count)}"
        shape = ("--n-layer", args.n_layer, "--n-embd", args.n_embd, "--n-head", "4", "--block-size", args.block)
        budget = ("--batch-size", args.batch, "--max-steps", args.steps, "--eval-windows", "8")
        rest = ("--data", "data", "--device", "cpu", "--dtype", "float32", "--tracker", "journal", "--json")
        told = command(place, "train", "--run-name", name, *map(str, (*shape, *budget, *rest)), *words)
        return json.loads(told)["speed/tokens_per_second"]

    return measure


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each subject")
    parser.add_argument("--steps", type=int, default=60, help="steps of a run")
    parser.add_argument("--batch", type=int, default=8, help="sequences per micro-step and process")
    parser.add_argument("--block", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--n-embd", type=int, default=256)
    add_out(parser)
    args = parser.parse_args()
    machine = hardware()
    print(machine)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command(place, "prepare", str(ROOT / "vgpt"), "--out", "data", "--vocab-size", "512", "--workers", "1")
        figures = interleave({name: measured(place, args, words) for name, words in SUBJECTS.items()}, args.rounds)
    one = figures["one process"]
    scaling = {name: paired_ratio(values, one) for name, values in figures.items()}
    for name, values in figures.items():
        s = summary(values)
        print(f"  {name:12} {s['median']:9,.0f} tokens/s  {s['low']:,.0f}..{s['high']:,.0f}  {scaling[name]:.2f}x")
    shape = {key: getattr(args, key) for key in ("n_layer", "n_embd", "batch", "block", "steps")}
    table = {name: summary(values) for name, values in figures.items()}
    write(args.out, {"benchmark": "ddp", "hardware": machine, **shape, "figures": table, "scaling": scaling})


if __name__ == "__main__":
    main()
