"""Lay the recorded results of a GPU out as the tables of docs/gpu.md, as markdown.

python benchmarks/gpu_summary.py

What benchmarks/gpu.py wrote to results/gpu is read; a stage without a file is one row that says so.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/gpu"


def load(name: str, results: Path) -> dict[str, Any] | None:
    """Return a recorded file, or None where there is none."""
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def absent(columns: list[str], stage: str) -> Iterator[str]:
    """Yield a table that says that a stage has not been recorded."""
    yield from head(columns)
    yield row([f"not recorded yet: {stage}", *[""] * (len(columns) - 1)])


def head(columns: list[str]) -> Iterator[str]:
    """Yield the head of a table."""
    yield row(columns)
    yield "|" + "---|" * len(columns)


def row(cells: list[str]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(cells) + " |"


def machine(results: Path = RESULTS) -> Iterator[str]:
    """Yield card, driver, versions and commit of each stage that is recorded."""
    columns = ["stage", "card", "driver, memory, clock", "versions", "commit", "date", "faults"]
    found = [one for path in sorted(results.glob("*.json")) if "stage" in (one := json.loads(path.read_text()))]
    if not found:
        yield from absent(columns, "any stage")
        return
    yield from head(columns)
    for one in found:
        about = one["hardware"]
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        about_run = [one["driver"], versions, f"`{one['commit']}`", about["date"], str(len(one["wrong"]))]
        yield row([one["stage"], about["gpu"] or "none", *about_run])


def training(results: Path = RESULTS) -> Iterator[str]:
    """Yield tokens per second and utilization of training steps at 124M."""
    columns = ["subject", "tokens/s", "lowest and highest round", "MFU", "as PaLM"]
    found = load("training", results)
    if found is None:
        yield from absent(columns, "training")
        return
    yield from head(columns)
    for name, figure in found["figures"].items():
        if not name.endswith(", tokens/s"):
            continue
        shares = [f"{figure[key]:.1%}" if key in figure else "" for key in ("MFU", "MFU as PaLM")]
        spread = f"{figure['low']:,} to {figure['high']:,}"
        yield row([name.removesuffix(", tokens/s"), f"{figure['median']:,}", spread, *shares])


def cores(results: Path = RESULTS) -> Iterator[str]:
    """Yield milliseconds of attention alone, linear kernels first, then FlexAttention's masks."""
    columns = ["tokens", "subject", "forward and backward, ms", "against the fastest causal attention"]
    linear, flex = load("linear", results), load("flex", results)
    if linear is None and flex is None:
        yield from absent(columns, "cores")
        return
    yield from head(columns)
    for one in (linear or {}).get("lengths", []):
        ms = {name: figure["median"] for name, figure in one["forward and backward"]["ms"].items()}
        softmax = [value for name, value in ms.items() if name.startswith("SDPA")]
        for name, value in ms.items():
            label = "linear, vgpt's kernels" if name == "kernel" else name
            yield row([f"{one['T']:,}", label, f"{value:.2f}", f"{min(softmax) / value:.2f}x" if softmax else ""])
    for tokens, subjects in sorted((flex or {}).get("speeds", {}).items(), key=lambda item: int(item[0])):
        for name, figure in subjects.items():
            if not isinstance(figure, dict):
                yield row([f"{int(tokens):,}", name, str(figure), ""])
                continue
            ms, times = figure.get("forward_backward_ms"), figure.get("times_forward_backward")
            yield row(
                [f"{int(tokens):,}", name, "" if ms is None else f"{ms:.2f}", "" if times is None else f"{times:.2f}x"]
            )


def decoding(results: Path = RESULTS) -> Iterator[str]:
    """Yield what each subject decodes, as the script told it."""
    found = load("decoding", results)
    rows: list[tuple[str, dict[str, Any]]] = []
    for name, figure in (found or {}).get("figures", {}).items():
        if isinstance(figure, dict) and (told := re.fullmatch(r"(.+), batch (\d+), prompt (\d+)", name)):
            rows.append((told[1], figure | {"batch": int(told[2]), "prompt": int(told[3])}))
    shown = {"ms_per_step": "ms per step", "tokens_per_second": "tokens/s", "gb_per_second": "GB/s moved"}
    columns = ["subject", "batch", "prompt", *shown.values()]
    if not rows:
        yield from absent(columns, "decoding")
        return
    yield from head(columns)
    for name, figure in rows:
        cells = [f"{figure['batch']}", f"{figure['prompt']:,}", *(_number(figure.get(key)) for key in shown)]
        yield row([name, *cells])


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


TABLES: dict[str, Callable[..., Iterator[str]]] = {
    "gpu-machine": machine,
    "gpu-training": training,
    "gpu-cores": cores,
    "gpu-decoding": decoding,
}


if __name__ == "__main__":
    for name, rows in TABLES.items():
        print(f"\n{name}\n")
        print("\n".join(rows()))
