"""One training of a probe: a small model on instances that never come twice, then its accuracy at every point."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.evaluation.tasks.base import IGNORE, Split, Task
from vgpt.probe.model import SmallModel
from vgpt.probe.recipe import Trial
from vgpt.probe.records import Outcome
from vgpt.tracking.journal import Point, now_ms
from vgpt.training.optimizer import build_optimizer, learning_rate

_LOOKS = 16
"""How often the validation instances are looked at in the course of a training."""
_WARMUP_SHARE = 1 / 16
_CHUNK_TOKENS = 1 << 16
"""Tokens of training instances that are drawn at once: drawing few at a time costs more than a step does."""
_TEST_TOKENS = 1 << 15
"""Tokens that are tested at once."""
GRAD_CLIP = 1.0

Log = Callable[[Point], object]


@dataclass(frozen=True)
class Instances:
    """Instances of one split, as tensors: ids and targets (N, T), and the task's own arrays to score with."""

    task: Task
    seed: int
    split: Split
    count: int

    def accuracy(self, model: SmallModel) -> float:
        """Return the share of what was asked that the model's most probable tokens get right."""
        right = asked = 0
        at_once = max(1, _TEST_TOKENS // self.task.length)
        with torch.inference_mode():
            for start in range(0, self.count, at_once):
                chosen = range(start, min(self.count, start + at_once))
                batch = self.task.batch(self.seed, self.split, chosen)
                said = model(torch.from_numpy(batch.inputs)).argmax(-1)
                score = self.task.score(batch, said.numpy())
                right, asked = right + int(score.right.sum()), asked + int(score.asked.sum())
        return right / asked


def train_trial(trial: Trial, log: Log, advance: Callable[[int], None] = lambda _: None) -> Outcome:
    """Train and test; the same trial gives the same numbers on the same processor and versions.

    AdamW with the defaults of `build_optimizer`, a rate that rises over a sixteenth of the steps and falls to zero by
    half a cosine, gradients clipped to a norm of 1.

    Args:
        trial: what to train.
        log: takes loss and accuracy on the validation instances now and then.
        advance: takes steps that were made.
    """
    recipe, begun = trial.recipe, time.perf_counter()
    model = SmallModel(recipe, trial.attn, trial.seed)
    optimizer = build_optimizer(model, lr=trial.lr)
    validation = Instances(recipe.made, trial.seed, "validation", recipe.validation_instances)
    interval = max(1, recipe.steps // _LOOKS)
    warmup = max(1, math.ceil(recipe.steps * _WARMUP_SHARE))
    losses: list[Tensor] = []
    accuracy, loss, step = 0.0, math.nan, 0
    for step, (ids, targets) in enumerate(_batches(trial), start=1):
        rate = learning_rate(step - 1, lr=trial.lr, min_lr=0.0, warmup_steps=warmup, max_steps=recipe.steps)
        losses.append(_update(model, optimizer, rate, ids, targets))
        if step % interval and step < recipe.steps:
            continue
        loss = float(torch.stack(losses).mean())
        losses.clear()
        accuracy = validation.accuracy(model.eval())
        model.train()
        log(Point(step, now_ms(), {"train/loss": loss, "probe/validation": accuracy, "train/lr": rate}))
        advance(min(interval, step % interval or interval))
        if not math.isfinite(loss) or (recipe.stop_at is not None and accuracy >= recipe.stop_at):
            break
    model.eval()
    points = [Instances(point.task, trial.seed, "test", recipe.test_instances) for point in recipe.points]
    test = tuple(one.accuracy(model) for one in points)
    seconds = time.perf_counter() - begun
    return Outcome(accuracy, test, step, loss if math.isfinite(loss) else None, seconds, now_ms())


def _update(model: SmallModel, optimizer: torch.optim.Optimizer, rate: float, ids: Tensor, targets: Tensor) -> Tensor:
    """Make one step and return the loss before it, which is not waited for."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _batches(trial: Trial) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ids and targets of each step, (B, T); instance n of a seed is the same for every variant and rate."""
    recipe, task = trial.recipe, trial.recipe.made
    B, total = recipe.batch_size, recipe.steps * recipe.batch_size
    at_once = B * max(1, _CHUNK_TOKENS // (B * task.length))
    for start in range(0, total, at_once):
        drawn = task.batch(trial.seed, "train", np.arange(start, min(total, start + at_once)))
        ids, targets = torch.from_numpy(drawn.inputs), torch.from_numpy(drawn.targets)
        yield from zip(ids.split(B), targets.split(B), strict=True)
