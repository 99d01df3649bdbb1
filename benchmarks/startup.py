"""Where the seconds of short commands go: help, a training of 20 steps, a comparison of finished runs, one token.

Each command runs in a process of its own, several times in turn; beside its seconds stand those of the modules that it
imports (`python -X importtime`, in a run apart: the list itself takes time) and, for training, the time up to the first
step and from the last one to the end.

    python benchmarks/startup.py --rounds 7 --out benchmarks/results/startup.json
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _hardware import add_out, hardware, interleave, summary, write

SMALL = ("--n-layer", "2", "--n-embd", "64", "--max-steps", "20", "--eval-windows", "8", "--log-interval", "1")
HEAVY = ("torch", "torch._dynamo", "mlflow", "numpy", "scipy", "matplotlib", "pydantic", "rich", "vgpt.cli.app")


def commands(folder: Path, tracker: str) -> dict[str, list[str]]:
    """Return what is measured, by name; the name of a training is made of the time, so that each is a new run."""
    train = ["train", "--preset", "demo", *SMALL, "--tracker", tracker]
    return {
        "help": ["--help"],
        "train": [*train, "--run-name", "NEW"],
        "compare": ["compare", "mha", "mqa", "--tracker", tracker],
        "sample": ["sample", "first", "--max-tokens", "1", "--prompt", "def"],
    }


def run(words: list[str], folder: Path, *options: str) -> tuple[float, str]:
    """Run `vgpt`; return its seconds and what it said."""
    named = [word if word != "NEW" else f"run-{time.time_ns()}" for word in words]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *options, "-m", "vgpt", *named],
        cwd=folder,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"vgpt {' '.join(named)}: {done.stderr}")
    return seconds, done.stderr


def imported(words: list[str], folder: Path) -> dict[str, float]:
    """Return the seconds that heavy modules take to import, with all that they import first."""
    found: dict[str, float] = {}
    for line in run(words, folder, "-X", "importtime")[1].splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and len(parts) == 3 and parts[1].strip().isdecimal():
            name = parts[2].strip()
            if name in HEAVY:
                found[name] = max(found.get(name, 0.0), int(parts[1]) / 1e6)
    return found


def within_training(folder: Path) -> dict[str, float]:
    """Return the parts of the newest training: to its first step's end, all steps, from the last one to the end."""
    run_dir = max((folder / "runs").glob("run-*"), key=lambda path: path.stat().st_mtime_ns)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] / 1000 for line in lines if "train/loss" in line["metrics"]]
    begun = int(run_dir.name.removeprefix("run-")) / 1e9
    ended = (run_dir / "summary.json").stat().st_mtime
    return {"to_the_first_step": times[0] - begun, "steps": times[-1] - times[0], "to_the_summary": ended - times[-1]}


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes of each command")
    parser.add_argument("--tracker", default="mlflow", choices=["mlflow", "journal"])
    add_out(parser)
    args = parser.parse_args()
    machine = hardware()
    print(machine)
    folder = Path(tempfile.mkdtemp(prefix="vgpt-startup-"))
    try:
        asked = commands(folder, args.tracker)
        for name, attn in (("first", "mha"), ("second", "mqa")):
            run(
                ["train", "--preset", "demo", *SMALL, "--tracker", args.tracker, "--attn", attn, "--run-name", name],
                folder,
            )
        parts: list[dict[str, float]] = []

        def measured(name: str) -> Callable[[], float]:
            def measure() -> float:
                seconds, _ = run(asked[name], folder)
                if name == "train":
                    parts.append(within_training(folder))
                return seconds

            return measure

        figures = interleave({name: measured(name) for name in asked}, args.rounds)
        modules = {name: imported(words, folder) for name, words in asked.items()}
    finally:
        shutil.rmtree(folder)
    results = {name: {"seconds": summary(values), "imports": modules[name]} for name, values in figures.items()}
    for name, found in results.items():
        told = ", ".join(f"{module} {seconds:.2f}" for module, seconds in found["imports"].items())
        print(f"  {name:8} {found['seconds']['median']:6.2f} s; imports: {told}")
    training = {key: summary([part[key] for part in parts]) for key in parts[0]}
    print("  of train: " + ", ".join(f"{key} {found['median']:.2f} s" for key, found in training.items()))
    write(args.out, {"benchmark": "startup", "hardware": machine, "commands": results, "train": training})


if __name__ == "__main__":
    main()
