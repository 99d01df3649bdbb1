"""Two machines train one run: two network namespaces of Linux, joined by a veth pair, share only the file system.

    sudo python tests/training/two_hosts.py

Needs root and the `ip` command. Either "machine" has an address and a loopback of its own. The run of both is held
against the same run by one process: losses and gradient norms within 1e-5, the same batches. Exits 1 where they differ.
"""

# ruff: noqa: T201

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ADDRESSES = ("10.77.0.1", "10.77.0.2")
TRAIN = """
    train --data data --n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --max-steps 8 --warmup-steps 2
    --lr 1e-2 --eval-interval 4 --eval-windows 7 --device cpu --dtype float32 --tracker journal --log-interval 1
"""
METRICS = ("train/loss", "val/loss", "train/grad_norm")


def main() -> int:
    """Return 0 where both ways of training agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", default="ddp", choices=["ddp", "fsdp", "hsdp"])
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("needs root and the ip command", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, two_machines() as machines:
        place = Path(folder)
        corpus = Path(__file__).parents[2] / "vgpt" / "text"
        vgpt(place, "prepare", str(corpus), "--out", "data", "--vocab-size", "300")
        vgpt(place, *TRAIN.split(), "--grad-accum", "2", "--run-name", "one")
        nodes = [start(place, name, rank, options.parallel) for rank, name in enumerate(machines)]
        talks = [node.communicate(timeout=180)[0] for node in nodes]
        for rank, (node, talk) in enumerate(zip(nodes, talks, strict=True)):
            if node.returncode != 0:
                print(f"machine {rank} ended with {node.returncode}:\n{talk}", file=sys.stderr)
                return 1
        return compare(place / "runs" / "one", place / "runs" / "two")


@contextlib.contextmanager
def two_machines() -> Iterator[list[str]]:
    """Make two network namespaces that reach each other, and nothing else."""
    names = [f"vgpt{number}-{os.getpid()}" for number in range(2)]
    ends = [f"vg{number}p{os.getpid() % 100000}" for number in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def vgpt(place: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "vgpt", *words], cwd=place, env=environment(), check=True)


def start(place: Path, machine: str, rank: int, parallel: str) -> "subprocess.Popen[str]":
    """Start the launcher of one machine."""
    endpoint = f"{ADDRESSES[0]}:29411"
    meeting = ["--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", endpoint]
    command = [sys.executable, "-m", "vgpt", *TRAIN.split(), *meeting, "--parallel", parallel, "--run-name", "two"]
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, *command],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def compare(one: Path, two: Path) -> int:
    """Print the largest difference of each metric; return 1 where one is too large or a point is missing."""
    failed = False
    for metric in METRICS:
        here, there = curve(one, metric), curve(two, metric)
        worst = max((abs(here[step] - there[step]) for step in here.keys() & there.keys()), default=float("inf"))
        failed |= worst > 1e-5 or here.keys() != there.keys()
        print(f"{metric}: {len(there)} points, largest difference {worst:.2e}")
    hashes = {json.loads((run / "ckpt/step-00000008/state.json").read_text())["batch_hash"] for run in (one, two)}
    print(f"batches: {'the same' if len(hashes) == 1 else 'NOT the same'}")
    return int(failed or len(hashes) > 1)


def curve(run: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"][name] for line in lines if name in line.get("metrics", {})}


if __name__ == "__main__":
    sys.exit(main())
