"""The training loop: steps, evaluations, checkpoints and records, in the same order for every variant."""

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from vgpt.data.batches import BatchSource
from vgpt.data.dataset import Dataset
from vgpt.errors import DivergedError
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.model.gpt2 import GPT2Model
from vgpt.settings.train import TrainConfig
from vgpt.tracking.tracker import Tracker
from vgpt.training.checkpoint import TrainingState, point, rotate, save_checkpoint
from vgpt.training.devices import Compute
from vgpt.training.display import Display, Progress
from vgpt.training.schedule import learning_rate
from vgpt.training.step import StepResult, TrainStep
from vgpt.training.stopping import StopRequest


@dataclass(frozen=True)
class Costs:
    """What turns tokens per second into utilisation: FLOPs per token by both conventions, and the peak FLOP/s."""

    flops_per_token: float
    palm_flops_per_token: float
    peak_flops: float

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs utilisation, exact pairs."""
        return tokens_per_second * self.flops_per_token / self.peak_flops

    def mfu_palm(self, tokens_per_second: float) -> float:
        """Model FLOPs utilisation as in the PaLM paper."""
        return tokens_per_second * self.palm_flops_per_token / self.peak_flops


class Trainer:
    """Trains one model from a state to the end of its budget."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: GPT2Model,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        data: Dataset,
        evaluator: Evaluator,
        compute: Compute,
        costs: Costs,
        tracker: Tracker,
        display: Display,
        log_file: Path,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.state = state
        self.data = data
        self.evaluator = evaluator
        self.compute = compute
        self.costs = costs
        self.tracker = tracker
        self.display = display
        self.log_file = log_file
        self.directory = config.directory / "ckpt"
        train = config.train
        self.batches = BatchSource(data.train.tokens, config.model.block_size, train.batch_size, train.seed)
        self.step = TrainStep(model, optimizer, dtype=compute.dtype, grad_clip=train.grad_clip)
        if self.step.scaler is not None and state.scaler:
            self.step.scaler.load_state_dict(dict(state.scaler))
        # Summed in float64 so that a resumed interval adds up to the same bits.
        self._loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=compute.device)
        self._mark = time.perf_counter()
        self._timed_steps = 0
        self.last_evaluation: Evaluation | None = None

    def run(self, stop: StopRequest) -> str:
        """Train to the end of the budget.

        Returns:
            "finished"; "early" when patience ran out; "stopped" when a signal asked for it. A checkpoint of the last
            step is on disk in all three cases.

        Raises:
            DivergedError: the loss is no longer a finite number.
        """
        config, state = self.config, self.state
        self.model.train()
        self._mark = time.perf_counter()
        while state.step < config.steps:
            result = self._update()
            self.display.advance(state.step)
            last = state.step == config.steps
            if state.step % config.run.log_interval == 0 or last:
                self._log(result)
            improved = early = False
            if state.step % config.train.eval_interval == 0 or last:
                improved, early = self._evaluate()
            state.finished = last or early
            stopping = stop.requested is not None
            if state.finished or improved or stopping or state.step % config.run.save_interval == 0:
                self._save()
            if state.finished:
                return "finished" if last else "early"
            if stopping:
                return "stopped"
        return "finished"

    def _update(self) -> StepResult:
        train, state = self.config.train, self.state
        if self.config.model.dropout:
            # Dropout is a function of (seed, step), like the batches: nothing to save, nothing to restore.
            torch.manual_seed(_mixed(train.seed, state.step))
        lr = self._learning_rate(state.step)
        result = self.step(self._batches(), lr)
        self._loss_sum += result.loss.double()
        state.loss_count += 1
        self._timed_steps += 1
        state.step += 1
        state.tokens += self.config.tokens_per_step
        return result

    def _learning_rate(self, step: int) -> float:
        train = self.config.train
        return learning_rate(
            step, lr=train.lr, min_lr=train.final_lr, warmup_steps=train.warmup_steps, max_steps=self.config.steps
        )

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        accumulate = self.config.train.grad_accum
        chain = hashlib.blake2b(self.state.batch_hash.encode(), digest_size=16)
        moved: list[tuple[Tensor, Tensor]] = []
        for micro in range(accumulate):
            ids, targets = self.batches.batch(self.state.step, micro_step=micro, grad_accum=accumulate)
            chain.update(ids.tobytes())
            moved.append((self._to_device(torch.from_numpy(ids)), self._to_device(torch.from_numpy(targets))))
        self.state.batch_hash = chain.hexdigest()
        return moved

    def _to_device(self, ids: Tensor) -> Tensor:
        if self.compute.device.type == "cuda":
            return ids.pin_memory().to(self.compute.device, non_blocking=True)
        return ids.to(self.compute.device)

    def _log(self, result: StepResult) -> None:
        config, state = self.config, self.state
        self._check_finite()
        loss = float(self._loss_sum) / state.loss_count
        norm = float(result.grad_norm)
        seconds = self._elapsed()
        rate = self._timed_steps * config.tokens_per_step / seconds
        state.seconds += seconds
        lr = self._learning_rate(state.step - 1)
        left = (config.steps - state.step) * config.tokens_per_step / rate
        self.tracker.log(
            {
                "train/loss": loss,
                "train/grad_norm": norm,
                "train/lr": lr,
                "perf/tokens_per_second": rate,
                "perf/mfu": self.costs.mfu(rate),
                "perf/mfu_palm": self.costs.mfu_palm(rate),
            },
            step=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
        )
        self.display.log(Progress(state.step, loss, norm, lr, rate, self.costs.mfu(rate), left))
        self._write(
            f"step {state.step} loss {loss:.6f} norm {norm:.4f} lr {lr:.3e} tok/s {rate:.0f} batches {state.batch_hash}"
        )
        self._loss_sum.zero_()
        state.loss_count = 0
        self._timed_steps = 0
        self._mark = time.perf_counter()

    def _check_finite(self) -> None:
        total = float(self._loss_sum)
        if not math.isfinite(total):
            raise DivergedError(
                f"the training loss is {total} at step {self.state.step}",
                f"Try a lower --lr or a longer --warmup-steps. Checkpoints from before are in {self.directory}.",
            )

    def _evaluate(self) -> tuple[bool, bool]:
        """Evaluate; return whether it is the best so far, and whether patience has run out."""
        state, patience = self.state, self.config.train.patience
        paused = self._elapsed()
        result = self.evaluator.evaluate(self.model, dtype=self.compute.dtype)
        best = math.isfinite(result.loss) and (state.best_loss is None or result.loss < state.best_loss)
        if best:
            state.best_loss, state.best_step, state.bad_evaluations = result.loss, state.step, 0
        else:
            state.bad_evaluations += 1
        self.last_evaluation = result
        self.tracker.log(result.metrics(), step=state.step, tokens=state.tokens, seconds=state.seconds)
        self.display.evaluated(state.step, result.loss, best)
        self._write(
            f"step {state.step} val_loss {result.loss:.6f} se {result.loss_se:.6f} bits/byte {result.bits_per_byte:.6f}"
        )
        self._mark = time.perf_counter() - paused
        return best, patience is not None and state.bad_evaluations >= patience

    def _save(self) -> None:
        """Write a checkpoint; a full or read-only disk costs this checkpoint, not the run."""
        self._check_finite()
        state = self.state
        paused = self._elapsed()
        state.loss_sum = float(self._loss_sum)
        if self.step.scaler is not None:
            state.scaler = self.step.scaler.state_dict()
        try:
            target = save_checkpoint(
                self.directory,
                model=self.model,
                optimizer=self.optimizer,
                state=state,
                settings=self.config,
                tokenizer=self.data.tokenizer,
            )
            point(self.directory, "last", target)
            if state.best_step == state.step:
                point(self.directory, "best", target)
            rotate(self.directory, self.config.run.keep_last)
            self.tracker.event("checkpoint", step=state.step, path=target.name)
        except (OSError, SafetensorError) as error:
            self.tracker.event("checkpoint_failed", step=state.step, error=str(error))
            self.display.say(f"checkpoint of step {state.step} NOT saved: {error}; earlier ones are intact")
        self._mark = time.perf_counter() - paused

    def _elapsed(self) -> float:
        """Return the seconds of pure training since the last log line; evaluation and saving move the mark."""
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)
        return time.perf_counter() - self._mark

    def _write(self, line: str) -> None:
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _mixed(seed: int, step: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
