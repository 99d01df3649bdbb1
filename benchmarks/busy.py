"""Training beside other work: the quick start's model beside a busy loop, beside a second training, inside one CPU.

Each figure is that of `vgpt train` in a process of its own, tokens/s over the logged intervals without the first; the
situations take turns with a quiet training, so that drift of the machine meets all alike:

- quiet: nobody else;
- libgomp: nobody else, waiting threads spin as GNU's OpenMP has them spin by itself;
- loop: beside one process that computes without end;
- pair: two trainings at once, both figures added;
- affinity: bound to one CPU; quota: in a control group of one CPU's time, where this user may make one;
- one thread: `--threads 1`, quiet, what the last two are measured by.

Run it where nothing else runs, from the top of the repository:

    python benchmarks/busy.py --rounds 5 --out benchmarks/results/busy.json

`--steps 12 --rounds 1 --layers 1 --width 32` is a rehearsal.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from _hardware import add_out, hardware, paired_ratio, summary, write

SAID = ("OMP_", "GOMP_", "MKL_", "VGPT_")
"""How the environment's words on threads and settings begin; the rule without them is what is measured."""
LIBGOMP = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp takes where threads are not more than processors; said aloud, vgpt leaves it as it is."""
LOGGED = 10
"""Steps between two logged intervals."""
SITUATIONS = ("quiet", "libgomp", "loop", "pair", "one thread", "affinity", "quota")
# What each is judged by: (situation, its measure, the least ratio).
TARGETS = (
    ("quiet", "libgomp", 0.97),
    ("loop", "quiet", 1 / 2.2),
    ("pair", "quiet", 0.8),
    ("affinity", "one thread", 0.9),
    ("quota", "one thread", 0.9),
)


class Trainer:
    """Starts trainings of one shape in folders of their own and reads their speeds."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.number = args, folder, 0

    def start(
        self, *flags: str, before: Callable[[], None] | None = None, env: dict[str, str] | None = None
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a training; return its process and its run's directory."""
        self.number += 1
        name = f"run-{self.number}"
        words = [sys.executable, "-m", "vgpt", "train", "--preset", "demo", "--run-name", name, "--max-steps"]
        words += [str(self.args.steps), "--log-interval", str(LOGGED), "--eval-interval", str(self.args.steps)]
        words += ["--n-layer", str(self.args.layers), "--n-embd", str(self.args.width), "--eval-windows", "8"]
        words += ["--tracker", self.args.tracker, *flags]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(SAID)} | (env or {})
        process = subprocess.Popen(
            words, cwd=self.folder, env=clean, preexec_fn=before, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return process, self.folder / "runs" / name

    def finish(self, started: tuple[subprocess.Popen[bytes], Path]) -> float:
        """Wait for a training; return its tokens/s: the median of the intervals, all but the first."""
        process, run = started
        told = process.communicate()[1]
        if process.returncode:
            raise SystemExit(told.decode())
        lines = [json.loads(line) for path in run.glob("*.jsonl") for line in path.read_text().splitlines()]
        rates = [rate for line in lines if (rate := _rate(line)) is not None]
        return median(rates[1:-1] or rates)

    def train(self, *flags: str, before: Callable[[], None] | None = None, env: dict[str, str] | None = None) -> float:
        """Train; return tokens/s."""
        return self.finish(self.start(*flags, before=before, env=env))


def _rate(line: dict) -> float | None:
    rate = line.get("metrics", line).get("perf/tokens_per_second")
    return float(rate) if isinstance(rate, int | float) else None


def spin() -> None:
    """Compute without end."""
    while True:
        pass


@contextlib.contextmanager
def busy_loop() -> Iterator[None]:
    """Have another process compute."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.join()


def one_cpu() -> None:
    """Bind this process to its first CPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextlib.contextmanager
def quota_group() -> Iterator[Callable[[], None] | None]:
    """Make a control group of one CPU's time; yield what moves a process into it, None where it cannot be made."""
    root = Path("/sys/fs/cgroup")
    made: Path | None = None
    try:
        if (root / "cgroup.controllers").exists():
            made = root / f"vgpt-busy-{os.getpid()}"
            made.mkdir()
            (made / "cpu.max").write_text("100000 100000")
        else:
            made = root / "cpu" / f"vgpt-busy-{os.getpid()}"
            made.mkdir()
            (made / "cpu.cfs_period_us").write_text("100000")
            (made / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        print(f"no control group can be made here ({error}): no quota is measured")
        if made is not None and made.exists():
            made.rmdir()
        yield None
        return
    place = made / "cgroup.procs"
    try:
        yield lambda: place.write_text(str(os.getpid())) and None
    finally:
        made.rmdir()


def measured(name: str, trainer: Trainer, enter: Callable[[], None] | None) -> float | None:
    """Return tokens/s in a situation."""
    if name == "loop":
        with busy_loop():
            return trainer.train()
    if name == "libgomp":
        return trainer.train(env=LIBGOMP)
    if name == "pair":
        pair = [trainer.start() for _ in range(2)]
        return sum(trainer.finish(one) for one in pair)
    if name == "quota":
        return None if enter is None else trainer.train(before=enter)
    if name == "affinity":
        return trainer.train(before=one_cpu) if hasattr(os, "sched_setaffinity") else None
    return trainer.train(*(["--threads", "1"] if name == "one thread" else []))


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="trainings of each kind")
    parser.add_argument("--steps", type=int, default=400, help="steps of each")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tracker", default="mlflow", choices=["mlflow", "journal"])
    parser.add_argument("--situations", default=",".join(SITUATIONS), help="which of them, by comma")
    add_out(parser)
    args = parser.parse_args()
    machine = hardware()
    print(machine)
    names = args.situations.split(",")
    figures: dict[str, list[float]] = {name: [] for name in names}
    folder = Path(tempfile.mkdtemp(prefix="vgpt-busy-"))
    try:
        with quota_group() as enter:
            trainer = Trainer(args, folder)
            trainer.train()  # prepares the data
            for turn in range(args.rounds):
                for shift in range(len(names)):
                    name = names[(turn + shift) % len(names)]
                    rate = measured(name, trainer, enter)
                    if rate is not None:
                        figures[name].append(rate)
                        print(f"  round {turn + 1} {name:10} {rate:10,.0f} tokens/s", flush=True)
    finally:
        shutil.rmtree(folder)
    found = {name: values for name, values in figures.items() if values}
    ratios = {
        f"{name} / {by}": {"ratio": paired_ratio(found[name], found[by]), "target": least}
        for name, by, least in TARGETS
        if name in found and by in found
    }
    for pair, ratio in ratios.items():
        print(f"  {pair:22} {ratio['ratio']:.2f}x (at least {ratio['target']:.2f}x)")
    shape = {key: getattr(args, key) for key in ("steps", "layers", "width", "tracker")}
    results = {name: summary(values) for name, values in found.items()}
    write(args.out, {"benchmark": "busy", "hardware": machine, "shape": shape, "figures": results, "ratios": ratios})


if __name__ == "__main__":
    main()
