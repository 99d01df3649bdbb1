"""What tracking costs a training step at the smallest shape, where a step is shortest: 4x128, T=64, a few milliseconds.

Each measurement is a run in a fresh process, in turn with the others: the first seconds, in which MLflow is imported
and its store opened, and the seconds after them. `none` does not track; `journal` writes the local journal; `mlflow`
mirrors it to SQLite as vgpt does, by a process of its own; `thread` delivers the same by a thread of the trainer, the
usual way. The number behind a name is the steps between two logged points of six metrics.

    python benchmarks/tracking.py --rounds 5 --out benchmarks/results/tracking.json

`call` is the time inside the tracker per step, `start` and `steady` are milliseconds per step in either phase, with
what was added to `none` of the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _hardware import add_out, add_patience, hardware, write
from _quiet import Quiet

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.tracking.mlflow_store.delivery import Delivery
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.tracker import RunStart, Tracker, open_tracker
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep

SUBJECTS = ("none", "journal/1", "journal/10", "mlflow/1", "mlflow/10", "thread/1", "thread/10")
PHASES = ("start", "steady")
METRICS = ("train/loss", "train/grad_norm", "train/lr", "perf/tokens_per_second", "perf/mfu", "perf/mfu_palm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="sequences per step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of either phase")
    parser.add_argument("--measure", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_out(parser)
    add_patience(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(options)))
        return
    machine = hardware("mlflow", "sqlalchemy")
    # The mirror works beside the trainer, and may: it is part of what is measured, though not of this process.
    quiet = Quiet(limit=0.25, patience=options.patience)
    rounds = compare(options, quiet)
    table = {name: figures(rounds, name) for name in options.subjects}
    show(table)
    result = {"machine": machine, "others": quiet.report(), "batch": options.batch}
    write(options.out, {**result, "subjects": table, "rounds": rounds})


def compare(options: argparse.Namespace, quiet: Quiet) -> list[dict[str, Any]]:
    """Measure all subjects once per round in processes of their own, in an order that turns."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        run(options, "mlflow/10", folder)  # makes the store, so that no measured run has to
        for turn in range(options.rounds):
            names = options.subjects[turn % len(options.subjects) :] + options.subjects[: turn % len(options.subjects)]
            rounds.append({name: quiet.measure(partial(run, options, name, folder)) for name in names})
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    return rounds


def run(options: argparse.Namespace, subject: str, folder: str) -> dict[str, float]:
    """Measure one subject in a fresh process."""
    given = {"batch": options.batch, "threads": options.threads, "seconds": options.seconds}
    command = [sys.executable, __file__, "--measure", subject, "--folder", folder]
    command += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train for two phases and return milliseconds per step of each, and of the tracker's calls."""
    step = training_step(options.batch)
    kind, _, interval = options.measure.partition("/")
    for _ in range(50):
        step()
    with tempfile.TemporaryDirectory(dir=options.folder) as run_dir:
        os.chdir(options.folder)
        tracker, end = begin(kind, Path(run_dir))
        result: dict[str, float] = {}
        number, inside = 0, 0.0
        for phase in PHASES:
            began, first = time.perf_counter(), number
            while time.perf_counter() - began < options.seconds:
                step()
                number += 1
                if tracker is not None and number % int(interval) == 0:
                    before = time.perf_counter()
                    tracker.log(dict.fromkeys(METRICS, 1.0 / number), step=number, tokens=number, seconds=1.0)
                    inside += time.perf_counter() - before
            result[phase] = 1e3 * (time.perf_counter() - began) / (number - first)
        result["call"] = 1e3 * inside / number
        end()
    return result


def training_step(batch: int) -> Callable[[], None]:
    """Return vgpt's own training step at the smallest shape."""
    config = GPT2Config(vocab_size=512, n_layer=4, n_head=4, n_embd=128, block_size=64)
    model = GPT2Model(config)
    initialize(model, 0)
    step = TrainStep(model, build_optimizer(model, lr=3e-4))
    ids = torch.randint(512, (batch, 65))
    return lambda: step([(ids[:, :-1], ids[:, 1:])], 3e-4) and None


def begin(kind: str, run_dir: Path) -> tuple[Tracker | None, Callable[[], object]]:
    """Start tracking of a kind; the second value ends it."""
    if kind == "none":
        return None, lambda: None
    start = RunStart("benchmark", run_dir, "benchmark", {}, {})
    journal_kind = "mlflow" if kind == "mlflow" else "journal"
    tracker = open_tracker(start, kind=journal_kind, resume_step=None, notify=lambda text: print(text, file=sys.stderr))
    if kind != "thread":
        return tracker, lambda: tracker.finish("finished", {})
    over = threading.Event()
    delivery = Delivery(run_dir, resolve_target(), print)

    def deliver() -> None:
        while not over.is_set():
            delivery.step()
            over.wait(2.0)

    thread = threading.Thread(target=deliver)
    thread.start()

    def end() -> None:
        tracker.finish("finished", {})
        over.set()
        thread.join()

    return tracker, end


def figures(rounds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Summarize a subject over the rounds: medians, and what it adds to the untracked step of the same round."""
    found: dict[str, Any] = {"call_ms": statistics.median(turn[name]["call"] for turn in rounds)}
    for phase in PHASES:
        found[f"{phase}_ms"] = statistics.median(turn[name][phase] for turn in rounds)
        if "none" in rounds[0]:
            added = sorted(turn[name][phase] / turn["none"][phase] - 1 for turn in rounds)
            found[f"{phase}_added"] = {"median": statistics.median(added), "low": added[0], "high": added[-1]}
    found["call_share"] = found["call_ms"] / found["steady_ms"]
    return found


def show(table: dict[str, dict[str, Any]]) -> None:
    """Print one line per subject."""
    print(f"{'':12}{'call ms':>9}{'of step':>9}{'start ms':>10}{'added':>8}{'steady ms':>11}{'added':>8}   low..high")
    for name, found in table.items():
        start, steady = found.get("start_added"), found.get("steady_added")
        line = f"{name:12}{found['call_ms']:9.4f}{found['call_share']:9.2%}{found['start_ms']:10.2f}"
        line += f"{start['median']:8.1%}" if start else ""
        line += f"{found['steady_ms']:11.2f}"
        line += f"{steady['median']:8.1%}   {steady['low']:.1%}..{steady['high']:.1%}" if steady else ""
        print(line)


if __name__ == "__main__":
    main()
