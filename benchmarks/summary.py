"""Lay the recorded results beside what is claimed: the tables of benchmarks/README.md, as markdown.

python benchmarks/summary.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"


class Claim(NamedTuple):
    """One claim: what was measured and what it must reach; `least` says whether the target is a lower bound."""

    text: str
    value: float
    target: float
    least: bool
    unit: str
    spread: str

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.least else self.value <= self.target

    def row(self) -> str:
        """Return the claim as a row of markdown."""
        sign = "≥" if self.least else "≤"
        verdict = "yes" if self.holds else "**no**"
        return (
            f"| {self.text} | {self.shown(self.value)} | {sign} {self.shown(self.target)} | {verdict} | {self.spread} |"
        )

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.1%}" if self.unit == "%" else f"{value:.2f}{self.unit}"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def train_claims() -> Iterator[Claim]:
    shapes = load("train_step")["shapes"]
    targets = [("vgpt fp32", "hf fp32", 1.15), ("vgpt bf16", "hf bf16", 1.3)]
    for name, found in shapes.items():
        case = found["case"]
        shape = f"{case['n_layer']}x{case['n_embd']}, T={case['T']}"
        pairs = [*targets, ("vgpt bf16", "hf fp32", 2.0)] if name == "medium" else targets
        for ours, theirs, target in pairs:
            text = f"training step, {shape}: {ours} / {theirs}"
            yield Claim(text, found["ratios"][f"{ours} / {theirs}"], target, True, "x", spreads(found, ours, theirs))


def decode_claims() -> Iterator[Claim]:
    for batch, found in load("decode")["batches"].items():
        peer, ratio = min(found["ratios"].items(), key=lambda item: item[1])
        target = 1.1 if batch == "1" else 1.5
        text = f"cached decoding at 124M, bf16, batch {batch}: vgpt / {peer}, the better peer"
        yield Claim(text, ratio, target, True, "x", spreads(found, "vgpt", peer))


def tracking_claims() -> Iterator[Claim]:
    subjects = load("tracking")["subjects"]
    for name in ("mlflow/10", "mlflow/1"):
        added = subjects[name]["steady_added"]
        spread = f"{added['low']:.1%}..{added['high']:.1%}"
        text = f"tracking to MLflow, 4x128, T=64, a point every {name.partition('/')[2]} steps: time added to a step"
        yield Claim(text, added["median"], 0.02, False, "%", spread)


def tokenizer_claims() -> Iterator[Claim]:
    rows = load("tokenizer")["rows"]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        text = f"{ours['vocab_size']:,} merges on {ours['megabytes']:.0f} MB: vgpt / tokenizers, time"
        spread = f"{ours['train_seconds']:.2f} s / {theirs['train_seconds']:.2f} s"
        yield Claim(text, ours["train_seconds"] / theirs["train_seconds"], 3.0, False, "x", spread)


def spreads(found: dict[str, Any], *subjects: str) -> str:
    return " / ".join(f"{found['figures'][name]['spread']:.0%}" for name in subjects)


def claim_table() -> Iterator[str]:
    """Yield the rows of the table of claims."""
    yield "| claim | measured | target | holds | spread of each side |"
    yield "|---|---|---|---|---|"
    parts = {
        "train_step": train_claims,
        "decode": decode_claims,
        "tracking": tracking_claims,
        "tokenizer": tokenizer_claims,
    }
    for name, claims in parts.items():
        if (RESULTS / f"{name}.json").exists():
            for claim in claims():
                yield claim.row()
        else:
            yield f"| {name} | not recorded yet | | | |"


def speed_table() -> Iterator[str]:
    """Yield the rows of the table of training speeds, in tokens per second."""
    shapes = load("train_step")["shapes"]
    names = list(next(iter(shapes.values()))["figures"])
    yield f"| training, tokens/s | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for found in shapes.values():
        case = found["case"]
        speeds = " | ".join(f"{found['figures'][name]['median']:,.0f}" for name in names)
        yield f"| {case['n_layer']}x{case['n_embd']}, T={case['T']}, batch {case['B']} | {speeds} |"


def decode_table() -> Iterator[str]:
    """Yield the rows of the table of decoding speeds, in tokens per second."""
    result = load("decode")
    names = list(next(iter(result["batches"].values()))["figures"])
    case = result["case"]
    yield f"| decoding, tokens/s | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for batch, found in result["batches"].items():
        speeds = " | ".join(f"{found['figures'][name]['median']:,.1f}" for name in names)
        yield f"| 124M, bf16, prompt {case['prompt']}, {case['new']} new tokens, batch {batch} | {speeds} |"


TABLES = {"claims": claim_table, "training": speed_table, "decoding": decode_table}


if __name__ == "__main__":
    print("\n\n".join("\n".join(table()) for table in TABLES.values()))
