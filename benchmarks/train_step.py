"""Tokens per second of whole training steps: vgpt beside HF GPT-2, litgpt and a plain GPT-2, in one process, in turn.

A step is forward, backward, clipping of the gradient norm at 1, AdamW, on random tokens. Each subject steps as its
users do by default: vgpt through its TrainStep and fused AdamW; the others with torch's AdamW as constructed without
options and `clip_grad_norm_`. HF GPT-2 has sdpa attention; `plain` is the GPT-2 that most people write
(_plain_gpt.py): torch's own layers and fused attention. All are the same trunk: pre-norm, GELU by tanh, biases, tied
output layer; litgpt has rotary positions instead of learned ones, and no tied weights. Memory is handed out as by
default for all of them; that `vgpt train` has freed memory kept makes its steps faster still (kept_memory.py). `--keep`
keeps it for all.

    python benchmarks/train_step.py --shapes small,medium --rounds 7 --out benchmarks/results/train_step.json
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _hardware import add_out, add_patience, hardware, interleave, paired_ratio, summary, write
from _plain_gpt import PlainGPT
from _quiet import Quiet
from torch import Tensor, nn
from torch.nn import functional as F

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.hardware.memory import keep_freed_memory
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep

LR = 3e-4
CLIP = 1.0


@dataclass(frozen=True)
class Case:
    """One shape: backbone, vocabulary V, batch B and length T; `steps` per measurement."""

    n_layer: int
    n_embd: int
    n_head: int
    T: int
    B: int
    V: int
    steps: int


CASES = {
    "small": Case(4, 128, 4, T=64, B=16, V=512, steps=10),
    "medium": Case(6, 384, 6, T=256, B=4, V=512, steps=2),
    "gpt2": Case(12, 768, 12, T=1024, B=1, V=50_257, steps=1),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[Tensor], None]


def vgpt_step(case: Case, dtype: torch.dtype) -> Step:
    """Return a training step of vgpt."""
    config = GPT2Config(
        vocab_size=case.V, n_layer=case.n_layer, n_head=case.n_head, n_embd=case.n_embd, block_size=case.T
    )
    model = GPT2Model(config)
    initialize(model, 0)
    step = TrainStep(model, build_optimizer(model, lr=LR), dtype=dtype, grad_clip=CLIP)
    return lambda ids: step([(ids[:, :-1], ids[:, 1:])], LR) and None


def plain_step(model: nn.Module, loss: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Step:
    """Return the training step most loops have."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def step(ids: Tensor) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = loss(ids)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hf_step(case: Case, dtype: torch.dtype) -> Step:
    """Return a training step of transformers' GPT-2."""
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel

    config = HFConfig(
        vocab_size=case.V,
        n_positions=case.T,
        n_embd=case.n_embd,
        n_layer=case.n_layer,
        n_head=case.n_head,
        attn_implementation="sdpa",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    # The model shifts its labels itself: T tokens in, T - 1 of them predicted.
    return plain_step(model, lambda ids: model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss, dtype)


def litgpt_step(case: Case, dtype: torch.dtype) -> Step:
    """Return a training step of litgpt's GPT."""
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        block_size=case.T,
        n_layer=case.n_layer,
        n_embd=case.n_embd,
        n_head=case.n_head,
        vocab_size=case.V,
        padded_vocab_size=case.V,
        parallel_residual=False,
        rotary_percentage=1.0,
        gelu_approximate="tanh",
        bias=True,
    )
    model = GPT(config)
    model.apply(model._init_weights)

    def loss(ids: Tensor) -> Tensor:
        logits = model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    return plain_step(model, loss, dtype)


def plain_gpt2_step(case: Case, dtype: torch.dtype) -> Step:
    """Return a training step of the GPT-2 that most people write."""
    model = PlainGPT(case.V, case.n_layer, case.n_head, case.n_embd, case.T)
    return plain_step(model, lambda ids: model(ids[:, :-1], ids[:, 1:]), dtype)


MAKERS = {"vgpt": vgpt_step, "hf": hf_step, "litgpt": litgpt_step, "plain": plain_gpt2_step}
# What this project asks of itself, at least: times as fast as the peer in the same precision, by shape.
GOALS = {
    ("hf", "fp32"): {"small": 1.2, "medium": 1.2, "gpt2": 1.2},
    ("hf", "bf16"): {"small": 1.6, "medium": 1.3, "gpt2": 1.4},
    ("plain", "bf16"): {"small": 1.5, "medium": 1.2, "gpt2": 1.4},
}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measured(make: Callable[..., Step], case: Case, dtype: torch.dtype, steps: int, clock: Callable[[], float]) -> Any:
    """Build a subject, warm it up, and return a function that gives tokens/s over `steps`."""
    torch.manual_seed(0)
    step = make(case, dtype)
    ids = torch.randint(case.V, (case.B, case.T + 1))
    for _ in range(2):
        step(ids)

    def measure() -> float:
        start = clock()
        for _ in range(steps):
            step(ids)
        return steps * case.B * case.T / (clock() - start)

    return measure


def run(name: str, args: argparse.Namespace, quiet: Quiet) -> dict[str, Any]:
    """Measure one shape and print its table."""
    case = CASES[name]
    subjects: dict[str, Any] = {}
    for peer in ["vgpt", *filter(None, args.peers.split(","))]:
        for dtype in args.dtypes.split(","):
            try:
                steps = args.steps or case.steps
                subjects[f"{peer} {dtype}"] = measured(MAKERS[peer], case, DTYPES[dtype], steps, CLOCKS[args.clock])
            except ImportError as error:
                print(f"skipped {peer} {dtype}: {error}")
    figures = interleave(subjects, args.rounds, quiet)
    print(f"\n{name}: {case.n_layer}x{case.n_embd}, T={case.T}, batch {case.B}, vocabulary {case.V}")
    for subject, values in figures.items():
        s = summary(values)
        print(
            f"  {subject:12} {s['median']:10,.0f} tokens/s  {s['low']:,.0f}..{s['high']:,.0f}  spread {s['spread']:.0%}"
        )
    ratios = {
        f"{ours} / {theirs}": paired_ratio(figures[ours], figures[theirs])
        for ours in figures
        for theirs in figures
        if ours.startswith("vgpt") and not theirs.startswith("vgpt")
        if ours.split()[1] == theirs.split()[1] or (ours, theirs) == ("vgpt bf16", "hf fp32")
    }
    for pair, ratio in ratios.items():
        ours, peer, dtype = pair.split()[1], *pair.split()[3:]
        goal = GOALS.get((peer, dtype), {}).get(name) if ours == dtype else None
        missed = f", below its goal of {goal}x" if goal and ratio < goal else ""
        print(f"  {pair:28} {ratio:.2f}x{missed}")
    return {"case": asdict(case), "figures": {k: summary(v) for k, v in figures.items()}, "ratios": ratios}


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="small,medium,gpt2", help=f"of {', '.join(CASES)}, by comma")
    parser.add_argument("--peers", default="hf,litgpt,plain", help="of hf, litgpt, plain, by comma")
    parser.add_argument("--dtypes", default="fp32,bf16", help="of fp32, bf16, by comma")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each subject")
    parser.add_argument("--steps", type=int, help="steps per measurement; default by shape")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, steadier where other work runs beside"
    )
    parser.add_argument("--keep", action="store_true", help="keep freed memory, as `vgpt train` does")
    add_out(parser)
    add_patience(parser)
    args = parser.parse_args()
    kept = args.keep and keep_freed_memory()
    machine = hardware("transformers", "litgpt")
    print(machine)
    quiet = Quiet(patience=args.patience)
    shapes = {name: run(name, args, quiet) for name in args.shapes.split(",")}
    result = {
        "benchmark": "train_step",
        "clock": args.clock,
        "memory_kept": kept,
        "hardware": machine,
        "others": quiet.report(),
    }
    write(args.out, {**result, "shapes": shapes})


if __name__ == "__main__":
    main()
