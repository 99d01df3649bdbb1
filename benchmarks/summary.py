"""Lay the recorded results beside what is claimed: the tables of benchmarks/README.md, as markdown.

python benchmarks/summary.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
ATTENTION_GOALS = {
    "local:window_size=128": {"4096": 4.0, "8192": 9.0},
    "linear": {"4096": 4.0, "8192": 8.0},
    "sparse": {"4096": 2.0, "8192": 5.0},
}
"""How many times as fast as full attention each must be, by tokens."""
SHORT, LEAST = ("64", "128", "256"), 0.9
"""No variant may be slower than so many times full attention in short sequences."""
TRAIN_GOALS = {
    ("vgpt fp32", "hf fp32"): {"small": 1.2, "medium": 1.2, "gpt2": 1.2},
    ("vgpt bf16", "hf bf16"): {"small": 1.6, "medium": 1.3, "gpt2": 1.4},
    ("vgpt bf16", "plain bf16"): {"small": 1.5, "medium": 1.2, "gpt2": 1.4},
    ("vgpt bf16", "hf fp32"): {"medium": 2.0},
}
"""How many times as fast as a peer a training step must be, by shape."""


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


def shape_of(case: dict[str, Any]) -> str:
    return f"{case['n_layer']}x{case['n_embd']}, T={case['T']}"


def train_claims() -> Iterator[Claim]:
    shapes = load("train_step")["shapes"]
    for name, found in shapes.items():
        shape = shape_of(found["case"])
        for (ours, theirs), goals in TRAIN_GOALS.items():
            ratio = found["ratios"].get(f"{ours} / {theirs}")
            if name in goals and ratio is not None:
                text = f"training step, {shape}: {ours} / {theirs}"
                yield Claim(text, ratio, goals[name], True, "x", spreads(found, ours, theirs))


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


def attention_claims() -> Iterator[Claim]:
    for dtype, found in load("attention")["results"].items():
        yield from _attention_claims(dtype, found)


def _attention_claims(dtype: str, found: dict[str, Any]) -> Iterator[Claim]:
    for name, goals in {"mha": {}, **ATTENTION_GOALS}.items():
        ms = found[name]["ms"]
        for tokens, goal in {**{T: LEAST for T in SHORT if T in ms}, **goals}.items():
            text = f"{name}, forward and backward, {dtype}, T={tokens}: SDPA causal / {name}, time"
            spread = f"{found['sdpa']['ms'][tokens]['spread']:.0%} / {ms[tokens]['spread']:.0%}"
            yield Claim(text, found[name]["faster"][tokens], goal, True, "x", spread)
        if goals:
            spread = f"{ms['8192']['spread']:.0%} / {ms['4096']['spread']:.0%}"
            text = f"{name}, {dtype}: time at T=8192 / at 4096"
            yield Claim(text, found[name]["doubling"]["4096"], 2.3, False, "x", spread)


def variant_claims() -> Iterator[Claim]:
    for batch, contexts in load("decode_variants")["batches"].items():
        for part, ours, theirs in (("layer", "mla", "mla-expanded"), ("forms", "absorbed", "expanded")):
            for tokens in ("256", "1024", "4096"):
                figures = contexts[tokens][part]
                what = "whole step of the layer" if part == "layer" else "attention alone"
                text = f"decoding with mla, fp32, batch {batch}, context {tokens}, {what}: expanded / absorbed, time"
                ratio = figures[theirs]["median"] / figures[ours]["median"]
                yield Claim(text, ratio, 15.0, True, "x", spreads({"figures": figures}, theirs, ours))
        for kind, short in (("linear", "256"), ("local", "512")):
            near, far = contexts[short]["layer"][kind], contexts["8192"]["layer"][kind]
            text = f"decoding with {kind}, fp32, batch {batch}: a step at context 8192 / at {short}, time"
            spread = f"{far['spread']:.0%} / {near['spread']:.0%}"
            yield Claim(text, far["median"] / near["median"], 1.25, False, "x", spread)


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
        "attention": attention_claims,
        "decode_variants": variant_claims,
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
        yield f"| {shape_of(case)}, batch {case['B']} | {speeds} |"


def memory_table() -> Iterator[str]:
    """Yield the rows of the table of steps with and without kept memory."""
    yield "| training | ms by default | ms kept | faster | peak by default | peak kept |"
    yield "|---|---|---|---|---|---|"
    shapes = load("train_step")["shapes"]
    for name, found in load("kept_memory")["results"].items():
        shape, dtype = name.split()
        ms = [f"{found['ms'][subject]['median']:,.1f}" for subject in ("default", "kept")]
        peaks = [f"{found['peak_bytes'][subject] / 2**20:,.0f} MiB" for subject in ("default", "kept")]
        cells = [f"{shape_of(shapes[shape]['case'])}, {dtype}", *ms, f"{found['faster']:.2f}x", *peaks]
        yield f"| {' | '.join(cells)} |"


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


def variant_table() -> Iterator[str]:
    """Yield the rows of the table of decoding steps, in milliseconds."""
    batches = load("decode_variants")["batches"]
    names = list(next(iter(next(iter(batches.values())).values()))["layer"])
    yield f"| ms per step of a layer, fp32 | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for batch, contexts in batches.items():
        for tokens, found in contexts.items():
            cells = [f"{layer[name]['median']:.3g}" if name in (layer := found["layer"]) else "-" for name in names]
            yield f"| batch {batch}, context {int(tokens):,} | {' | '.join(cells)} |"


def attention_table() -> Iterator[str]:
    """Yield the rows of the table of attention alone, forward and backward, in milliseconds."""
    results = load("attention")["results"]
    lengths = list(results["fp32"]["sdpa"]["ms"])
    yield f"| forward and backward, ms | {' | '.join(f'T={int(tokens):,}' for tokens in lengths)} |"
    yield "|---" * (len(lengths) + 1) + "|"
    for dtype, found in results.items():
        for name, record in found.items():
            cells = [
                f"{record['ms'][tokens]['median']:,.1f} ({record['faster'][tokens]:.2f}x)"
                if name != "sdpa"
                else f"{record['ms'][tokens]['median']:,.1f}"
                for tokens in lengths
            ]
            yield f"| {name}, {dtype} | {' | '.join(cells)} |"


TABLES = {
    "claims": claim_table,
    "training": speed_table,
    "kept-memory": memory_table,
    "decoding": decode_table,
    "attention": attention_table,
    "variant-steps": variant_table,
}


if __name__ == "__main__":
    print("\n\n".join("\n".join(table()) for table in TABLES.values()))
