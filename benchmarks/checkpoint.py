"""What a checkpoint costs a training step: saving beside training, saving in its midst, and not saving, in turn.

A round is some steps of a model of about 30M parameters (360 MB with AdamW's moments), with one checkpoint begun after
the first. `beside` is vgpt's saver: training waits while the tensors are copied, and a thread writes to the disk.
`plain` waits until all is written, flushed, hashed and renamed. `none` saves nothing. Told are the wait of the step
that saves, and how much longer all steps of a round take than without a save (the median of the rounds' differences),
which counts as a share of a save interval.

    python benchmarks/checkpoint.py --rounds 5 --out benchmarks/results/checkpoint.json
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _hardware import add_out, hardware, interleave, summary, write

from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.text.bpe import train_bpe
from vgpt.training.checkpoints.checkpoint import TrainingState
from vgpt.training.checkpoints.saver import Saver
from vgpt.training.optimizer import build_optimizer
from vgpt.training.parallel.replica import Replica
from vgpt.training.step import TrainStep

INTERVAL = 250
"""Steps between checkpoints by default."""


class Subject:
    """A model in training, and where it is saved."""

    def __init__(self, place: Path, batch: int, block: int) -> None:
        self.config = GPT2Config(vocab_size=8192, n_layer=8, n_head=8, n_embd=512, block_size=block)
        self.model = GPT2Model(self.config)
        initialize(self.model, 0)
        self.optimizer = build_optimizer(
            self.model, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, device=torch.device("cpu")
        )
        self.step = TrainStep(self.model, self.optimizer)
        self.replica = Replica(self.model)
        settings = TrainConfig.model_validate({"run": {"runs_dir": str(place), "run_name": "saved", "keep_last": 1}})
        self.failed: list[str] = []
        self.saver = Saver(
            settings,
            self.config,
            train_bpe(["a tokenizer of few words " * 50], 270),
            lambda saved: self.failed.append(saved.error) if saved.error else None,
        )
        self.ids = torch.randint(8192, (batch, block + 1), generator=torch.Generator().manual_seed(0))
        self.state = TrainingState()
        self.update()

    def update(self) -> None:
        """Make one training step."""
        self.step([(self.ids[:, :-1], self.ids[:, 1:])], 3e-4)
        self.state.step += 1

    def save(self) -> None:
        """Begin a checkpoint."""
        self.saver.save(self.replica.weights(), self.replica.optimizer_state(self.optimizer), self.state)


def measured(subject: Subject, steps: int, how: str, waits: list[float]) -> Callable[[], float]:
    """Return a measurement of the seconds that `steps` steps take with a save after the first, or with none."""

    def measure() -> float:
        start = time.perf_counter()
        for number in range(steps):
            subject.update()
            if number == 0 and how != "none":
                began = time.perf_counter()
                subject.save()
                if how == "plain":
                    subject.saver.wait()
                waits.append(time.perf_counter() - began)
        seconds = time.perf_counter() - start
        # The disk is quiet again before the next subject's turn.
        subject.saver.wait()
        return seconds

    return measure


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each subject")
    parser.add_argument("--steps", type=int, default=10, help="steps of a measurement")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--place", type=Path, help="directory to save in; default: the system's temporary one")
    add_out(parser)
    args = parser.parse_args()
    machine = hardware("safetensors")
    print(machine)
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        subject = Subject(Path(folder), args.batch, args.block)
        waits: dict[str, list[float]] = {name: [] for name in ("none", "beside", "plain")}
        subjects = {name: measured(subject, args.steps, name, waits[name]) for name in waits}
        figures = interleave(subjects, args.rounds)
        if subject.failed:
            raise SystemExit(f"a save failed: {subject.failed[0]}")
    parameters = count_parameters(subject.config).total
    none = summary(figures["none"])["median"]
    step = none / args.steps
    print(f"{parameters:,} parameters, {args.batch}x{args.block} tokens a step, {step:.3f} s a step")
    results: dict[str, Any] = {"none": summary(figures["none"])}
    for name in ("beside", "plain"):
        seconds, wait = summary(figures[name]), summary(waits[name])
        cost = statistics.median(ours - bare for ours, bare in zip(figures[name], figures["none"], strict=True))
        share = cost / (INTERVAL * step)
        print(
            f"  {name:7} the step waits {wait['median']:6.3f} s ({wait['low']:.3f}..{wait['high']:.3f}); all "
            f"{args.steps} steps take {cost:+6.3f} s longer: {share:.2%} of {INTERVAL} steps"
        )
        results[name] = {"steps": seconds, "wait": wait, "cost": cost, "share_of_interval": share}
    about = {"parameters": parameters, "batch": args.batch, "block": args.block, "steps": args.steps}
    write(args.out, {"benchmark": "checkpoint", "hardware": machine, **about, "interval": INTERVAL, "figures": results})


if __name__ == "__main__":
    main()
