"""What every benchmark states beside its numbers, and how it repeats measurements fairly."""

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from _quiet import Quiet


def hardware(*packages: str) -> dict[str, Any]:
    """Describe machine and software; `packages` are peers whose versions matter."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
    }


def interleave(
    subjects: dict[str, Callable[[], float]], rounds: int, quiet: Quiet | None = None
) -> dict[str, list[float]]:
    """Measure all subjects once per round, in an order that turns, so that drift of the machine meets all alike.

    A subject returns its own figure of one measurement; `quiet` says which measurements are made again.
    """
    quiet = quiet or Quiet()
    names = list(subjects)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for shift in range(len(names)):
            name = names[(turn + shift) % len(names)]
            gc.collect()
            figures[name].append(quiet.measure(subjects[name]))
    return figures


def summary(figures: list[float]) -> dict[str, Any]:
    """Median, extremes and the relative spread between the quartiles."""
    ordered = sorted(figures)
    quartiles = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else [ordered[0]] * 3
    median = statistics.median(ordered)
    return {
        "median": median,
        "low": ordered[0],
        "high": ordered[-1],
        "spread": (quartiles[2] - quartiles[0]) / median,
        "rounds": figures,
    }


def paired_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over rounds of ours / theirs: what both met in the same round cancels."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add `--out FILE`."""
    parser.add_argument("--out", type=Path, help="write the results as JSON to this file")


def add_patience(parser: argparse.ArgumentParser) -> None:
    """Add `--patience SECONDS`."""
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        help="seconds to spend on measurements again that other processes disturbed",
    )


def write(out: Path | None, result: dict[str, Any]) -> None:
    """Write a result where `--out` says."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written to {out}")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
