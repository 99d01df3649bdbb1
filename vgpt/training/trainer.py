"""The training loop: steps, evaluations, checkpoints and records, in the same order for every variant."""

import hashlib
import math
import time
from typing import NoReturn

import torch
from torch import Tensor

from vgpt.data.batches import BatchSource
from vgpt.errors import DivergedError
from vgpt.evaluation.loss import Evaluation
from vgpt.model.gpt2 import GPT2Model
from vgpt.training.batch_loader import BatchLoader
from vgpt.training.checkpoints.checkpoint import TrainingState, steps
from vgpt.training.checkpoints.saver import Saver
from vgpt.training.display import Progress
from vgpt.training.graphed_step import build_step
from vgpt.training.hardware.devices import sum_device
from vgpt.training.hardware.memory import StepMemory, Usage
from vgpt.training.hardware.peak import Costs
from vgpt.training.optimizer import learning_rate
from vgpt.training.parallel.distributed import World
from vgpt.training.parallel.replica import Replica
from vgpt.training.records.record import RunSetup
from vgpt.training.reporter import Reporter
from vgpt.training.step import LateResults
from vgpt.training.step_profile import StepProfile
from vgpt.training.stopping import StopRequest


class Trainer:
    """Trains one model from a state to the end of its budget."""

    def __init__(
        self,
        setup: RunSetup,
        *,
        model: GPT2Model,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        replica: Replica,
        costs: Costs,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.config = config = setup.config
        self.evaluator = setup.evaluator
        self.compute = compute = setup.compute
        self.model = model
        self.optimizer = optimizer
        self.state = state
        self.replica = replica
        self.costs = costs
        self.reporter = reporter
        self.world = world
        data, train = setup.data, config.train
        self.saver = Saver(config, model.config, data.tokenizer, reporter.saved)
        source = BatchSource(data.train.tokens, config.model.block_size, train.batch_size, train.seed)
        self.feed = BatchLoader(source, train.grad_accum, world, compute.device)
        self.usage = Usage(compute.device) if world.main else None
        self.step = build_step(
            model,
            optimizer,
            self.replica,
            dtype=compute.dtype,
            grad_clip=train.grad_clip,
            flops=costs.flops_per_token * train.batch_size * config.model.block_size,
            alone=world.alone,
            notify=reporter.display.notify,
        )
        if self.step.scaler is not None and state.scaler:
            self.step.scaler.load_state_dict(dict(state.scaler))
        # Summed in float64 so that a resumed interval adds up to the same bits.
        self._loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=sum_device(compute.device))
        self._mark = time.perf_counter()
        self._timed_steps = state.interval_steps
        self._untimed_steps, self._rate = 0, math.nan
        traced = config.run.profile and world.main
        self.profile = StepProfile(config.directory, compute.device, reporter.notify) if traced else None
        self.memory = StepMemory(compute.device)
        self._norm = torch.tensor(math.nan)
        self._results = LateResults(compute.device)
        self.last_evaluation: Evaluation | None = None

    def run(self, stop: StopRequest, *, evaluate_first: bool = False) -> str:
        """Train to the end of the budget.

        Args:
            stop: asks for an early end.
            evaluate_first: also evaluate and save before the first step: what was learned elsewhere is a result.

        Returns:
            "finished"; "early" when patience ran out; "stopped" when a signal asked for it. A checkpoint of the last
            step is on disk in all three cases, unless the disk refused it.

        Raises:
            DivergedError: the loss is no longer a finite number, or too many gradients in a row were not.
        """
        self.model.train()
        self._mark = time.perf_counter() - self.state.interval_seconds
        try:
            if evaluate_first:
                self._evaluate()
                self._save()
                self.saver.wait()
            self.memory.begin(self._held())
            return self._loop(stop)
        finally:
            self.feed.close()
            self.saver.wait()
            if self.profile is not None:
                self.profile.close()
            self.reporter.close_text_log()

    def _loop(self, stop: StopRequest) -> str:
        config, state = self.config, self.state
        if state.finished:
            # The process before died between its last checkpoint and the record of its end.
            return "finished" if state.step == config.steps else "early"
        while state.step < config.steps:
            self._update_or_profile()
            self.memory.step()
            self.reporter.advance(state.step)
            last = state.step == config.steps
            if state.step % config.run.log_interval == 0 or last:
                self._log()
            improved = early = False
            if state.step % config.train.eval_interval == 0 or last:
                improved, early = self._evaluate()
            state.finished = last or early
            requested, asked = self.world.agree(stop.requested, stop.take_save(), device=self.compute.device)
            if requested:  # or else a signal that came while they agreed would be forgotten
                stop.requested = int(requested)
            if state.finished or improved or requested or asked or state.step % config.run.save_interval == 0:
                self._save()
            self.saver.poll()
            if state.finished:
                return "finished" if last else "early"
            if requested:
                return "stopped"
        return "finished"

    def _update_or_profile(self) -> None:
        """Update; one that is traced takes no part in the recorded speed."""
        if self.profile is None or not self.profile.takes():
            self._update()
            return
        paused = time.perf_counter() - self._mark if self.profile.begun else self._elapsed()
        self.profile.trace(self._update)
        self._timed_steps -= 1
        self._untimed_steps += 1
        self._mark = time.perf_counter() - paused

    def _update(self) -> None:
        train, state = self.config.train, self.state
        if self.config.model.dropout:
            # Dropout is a function of (seed, step, rank), like the batches: nothing to save, nothing to restore.
            torch.manual_seed(_mixed(train.seed, state.step, self.world.rank))
        lr = self._learning_rate(state.step)
        result = self.step(self._batches(), lr)
        state.step += 1
        state.tokens += self.config.tokens_per_step
        self._timed_steps += 1
        loss = result.loss.to(self._loss_sum.device).double()
        self._loss_sum += torch.where(result.skipped.to(loss.device), torch.zeros_like(loss), loss)
        self._results.add(state.step, state.batch_hash, result)
        self._count(certain=False)

    def _count(self, *, certain: bool) -> None:
        """Count the updates that were made and those that were left out; `certain`: the newest one too."""
        state = self.state
        for step, batches, result, skipped in self._results.take(all_of_them=certain):
            if skipped:
                self._count_bad_step(step, batches, float(result.grad_norm))
                continue
            state.bad_steps = 0
            state.loss_count += 1
            self._norm = result.grad_norm

    def _count_bad_step(self, step: int, batches: str, norm: float) -> None:
        """Count an update that was left out; end the run after too many in a row."""
        state, most = self.state, self.config.train.max_bad_steps
        state.bad_steps += 1
        state.skipped_steps += 1
        self.reporter.bad_step(step, norm, batches=batches, in_a_row=state.bad_steps)
        if state.bad_steps > most:
            self._stop_diverged(f"{state.bad_steps} gradients in a row were not finite, up to step {step}")

    def _stop_diverged(self, what: str) -> NoReturn:
        self.saver.wait()
        good = next((path for path in reversed(steps(self.saver.directory))), None)
        kept = f"The last good checkpoint is {good}." if good else "There is no checkpoint yet."
        raise DivergedError(what, f"Try a lower --lr or a longer --warmup-steps. {kept}")

    def _learning_rate(self, step: int) -> float:
        train = self.config.train
        return learning_rate(
            step, lr=train.lr, min_lr=train.final_lr, warmup_steps=train.warmup_steps, max_steps=self.config.steps
        )

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return this process's micro-batches of the step, and chain the hash of the step's whole batch."""
        found, chain = self.feed.step(self.state.step), self.state.batch_hash
        self.state.batch_hash = hashlib.blake2b((chain + found.digest).encode(), digest_size=16).hexdigest()
        return found.micro

    def _log(self) -> None:
        config, state = self.config, self.state
        self._count(certain=True)
        total = self._shared_loss_sum()
        # An interval of which every update was left out has no loss.
        loss = total / state.loss_count if state.loss_count else math.nan
        norm = float(self._norm)
        seconds = self._elapsed()
        if self._timed_steps:  # or else all of them were traced
            self._rate = self._timed_steps * config.tokens_per_step / seconds
        rate = self._rate
        untimed = self._untimed_steps * config.tokens_per_step
        state.seconds += seconds + (untimed / rate if untimed and rate > 0 else 0.0)
        lr = self._learning_rate(state.step - 1)
        left = (config.steps - state.step) * config.tokens_per_step / rate
        figures = {
            **(self.costs.rates(rate) if self._timed_steps else {}),
            **(self.usage.measure() if self.usage is not None else {}),
        }
        progress = Progress(state.step, loss, norm, lr, rate, self.costs.mfu(rate), left)
        self.reporter.interval(state, progress, figures)
        self._loss_sum.zero_()
        state.loss_count = 0
        self._timed_steps = self._untimed_steps = 0
        self._mark = time.perf_counter()

    def _shared_loss_sum(self) -> float:
        """Return the mean over all processes of the interval's summed loss; all of them stop where it is not finite."""
        total = float(self.world.mean(self._loss_sum.clone()))
        if not math.isfinite(total):
            self._stop_diverged(f"the training loss is {total} at step {self.state.step}")
        return total

    def _evaluate(self) -> tuple[bool, bool]:
        """Evaluate; return whether it is the best so far, and whether patience has run out."""
        state, patience = self.state, self.config.train.patience
        self._count(certain=True)
        paused = self._elapsed()
        self.memory.end()
        result = self.evaluation()
        best = math.isfinite(result.loss) and (state.best_loss is None or result.loss < state.best_loss)
        if best:
            state.best_loss, state.best_step, state.bad_evaluations = result.loss, state.step, 0
        else:
            state.bad_evaluations += 1
        self.last_evaluation = result
        self.reporter.evaluated(state, result, best=best)
        if not math.isfinite(result.loss):
            # The weights themselves are spoilt, though the loss of the batch before was a number: no result, no save.
            self._stop_diverged(f"the validation loss is {result.loss} at step {state.step}")
        self._mark = time.perf_counter() - paused
        return best, patience is not None and state.bad_evaluations >= patience

    def evaluation(self) -> Evaluation:
        """Evaluate the model as it is; each process takes a share of the windows."""
        world = self.world
        share = self.evaluator.token_losses(
            self.model,
            dtype=self.compute.dtype,
            losses=lambda _, ids, targets: self.replica.token_losses(ids, targets),
            part=world.rank,
            parts=world.size,
        )
        return self.evaluator.evaluation(world.interleaved(share)[: len(self.evaluator)])

    def _save(self) -> None:
        """Begin to write a checkpoint; a full or read-only disk costs this checkpoint, not the run."""
        state = self.state
        self._count(certain=True)
        paused = self._elapsed()
        self.memory.end()
        state.interval_steps, state.interval_seconds = self._timed_steps, paused
        state.train_bytes = self.memory.peak or state.train_bytes
        state.loss_sum = self._shared_loss_sum()
        if self.step.scaler is not None:
            state.scaler = self.step.scaler.state_dict()
        weights, optimizer = self.replica.weights(), self.replica.optimizer_state(self.optimizer)
        if self.world.main:
            self.saver.save(weights, optimizer, state)
        self._mark = time.perf_counter() - paused

    def _held(self) -> list[Tensor]:
        """Return what training holds between steps: weights and the optimizer's state."""
        state = [tensor for slots in self.optimizer.state.values() for tensor in slots.values()]
        return [*self.model.parameters(), *(tensor for tensor in state if isinstance(tensor, Tensor))]

    def _elapsed(self) -> float:
        """Return the seconds of pure training since the last log line; evaluation and saving move the mark."""
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)
        return time.perf_counter() - self._mark


def _mixed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
