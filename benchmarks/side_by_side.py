"""Whether `vgpt bench` can be relied on: a variant against itself, and against itself slowed down by a tenth.

Many short benches of the same model under two names, through the rounds, the watch and the statistics that `vgpt bench`
uses. Against itself an interval may leave out 1 in one repetition of twenty, and no oftener; with a planted slowdown it
must. `--busy` starts a busy loop in the middle of every bench: its ratios must stay within the intervals of the quiet
ones, or be called disturbed.

    python benchmarks/side_by_side.py --repetitions 100 --out benchmarks/results/side_by_side.json
    python benchmarks/side_by_side.py --repetitions 20 --busy
"""

import argparse
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from _hardware import add_out, hardware, write

from vgpt.bench.disturbance import Watch
from vgpt.bench.rounds import Patience, interleave
from vgpt.bench.statistics import paired_ratio
from vgpt.bench.work import Point, Training
from vgpt.model.config import GPT2Config
from vgpt.settings.train import SystemSettings
from vgpt.threads import wait_asleep
from vgpt.training.hardware.devices import resolve

PLANTED = 1.1


def spin(seconds: float) -> None:
    """Compute so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def slowed(work: Training, times: int) -> Callable[[], float]:
    """Return a measurement of the same steps, each with a tenth of its time more; the added time is really spent."""

    def measure() -> float:
        seconds = work.seconds(times)
        spin((PLANTED - 1) * seconds)
        return PLANTED * seconds

    return measure


def repetition(works: dict[str, Training], times: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure once; return both ratios with their intervals, and what disturbed them."""
    subjects: dict[str, Callable[[], float]] = {
        "first": lambda: works["first"].seconds(times),
        "same": lambda: works["same"].seconds(times),
        "slowed": slowed(works["first"], times),
    }
    series = interleave(subjects, args.rounds, Watch(torch.get_num_threads()), Patience(args.patience))
    found: dict[str, Any] = {"repeated": series.repeated, "disturbed": list(series.reasons)}
    for name in ("same", "slowed"):
        ratio = paired_ratio(series.figures[name], series.figures["first"])
        found[name] = {**asdict(ratio), "shows": ratio.shows}
    return found


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one measurement")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds of each repetition for rounds made again")
    parser.add_argument("--busy", action="store_true", help="start a busy loop in the middle of every repetition")
    add_out(parser)
    args = parser.parse_args()
    wait_asleep()
    compute = resolve(SystemSettings(device="cpu"))
    config = GPT2Config(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=2048)
    point = Point("train", 16, 128)
    works = {name: Training(config, point, compute, SystemSettings()) for name in ("first", "same")}
    times = max(work.fitting(args.seconds) for work in works.values())
    machine = hardware()
    print(machine)
    results: list[dict[str, Any]] = []
    for number in range(args.repetitions):
        loop = multiprocessing.get_context("spawn").Process(target=spin, args=(3600.0,), daemon=True)
        timer = threading.Timer(args.rounds * 3 * args.seconds / 2, loop.start)
        if args.busy:
            timer.start()
        results.append(repetition(works, times, args))
        timer.cancel()
        if args.busy and loop.pid is not None:
            loop.kill()
            loop.join()
        one = results[-1]
        print(f"  {number + 1}: same {one['same']['value']:.3f} slowed {one['slowed']['value']:.3f} {one['disturbed']}")
    claims = [one for one in results if not one["disturbed"]]
    rates = {name: sum(one[name]["shows"] for one in claims) / max(1, len(claims)) for name in ("same", "slowed")}
    print(f"undisturbed: {len(claims)} of {len(results)}; intervals that leave out 1: {rates}")
    about = {"benchmark": "side_by_side", "hardware": machine, "busy": args.busy, "planted": PLANTED}
    write(args.out, {**about, "undisturbed": len(claims), "shows": rates, "repetitions": results})


if __name__ == "__main__":
    main()
