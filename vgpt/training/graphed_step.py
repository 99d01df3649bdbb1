"""Updates of small models as one CUDA graph: hundreds of short kernels are started by one call.

A model of 4 layers of width 128 keeps an H100 busy for a small part of its step; the rest is the host, starting
kernels. A graph is recorded once and replayed with other numbers in the same memory.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vgpt.model.cuda_graphs import NotRecordedError, record, run_aside
from vgpt.model.gpt2 import GPT2Model
from vgpt.training.parallel.replica import Replica
from vgpt.training.step import StepResult, TrainStep

EAGER = 4
"""Updates before the recording, in which libraries choose kernels and compilers compile."""

LARGEST = 3e12
"""FLOPs of a micro-step, above which starting kernels costs nothing beside computing them."""


class GraphedStep(TrainStep):
    """`TrainStep` for CUDA that records its update after a few of them, and replays it from then on.

    Every call must bring as many micro-batches of the same shape. Dropout and loss scaling are not for graphs. Where
    the recording fails, updates go on as before, and `notify` hears why.

    Args:
        notify: hears what is worth telling.
        arguments: those of `TrainStep`.
    """

    def __init__(self, *arguments: Any, notify: Callable[[str], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.scaler is not None:
            raise ValueError("loss scaling chooses on the host which updates to make: no graph can hold it")
        self._notify = notify
        self._eager_left: float = EAGER
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._lr = torch.zeros((), device=self.device)
        self._result: StepResult | None = None

    def __call__(self, batches: Sequence[tuple[Tensor, Tensor]], lr: float) -> StepResult:
        """Update once, as `TrainStep` does."""
        if self._graph is None and self._eager_left:
            self._eager_left -= 1
            update = super().__call__
            return run_aside(lambda: update(batches, lr), self.device)
        if self._graph is None and not self._record(batches):
            return super().__call__(batches, lr)
        assert self._graph is not None
        assert self._result is not None
        for (ids, targets), (own_ids, own_targets) in zip(batches, self._batches, strict=True):
            own_ids.copy_(ids)
            own_targets.copy_(targets)
        self._lr.fill_(lr)
        self._graph.replay()
        # The next replay writes into the same memory.
        result = self._result
        return StepResult(result.loss.clone(), result.grad_norm.clone(), result.skipped.clone())

    def _keep_result(self) -> None:
        self._result = self._forward_backward_step(self._batches)

    def _record(self, batches: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Record an update; nothing is computed meanwhile. Return whether that was possible."""
        self._batches = [(ids.clone(), targets.clone()) for ids, targets in batches]
        for group in self.optimizer.param_groups:
            group["lr"], group["capturable"] = self._lr, True
        try:
            self._graph = record(self._keep_result, self.device)
        except NotRecordedError as error:
            self._eager_left = math.inf
            for group in self.optimizer.param_groups:
                group["capturable"] = False
            self.optimizer.zero_grad(set_to_none=True)
            self._notify(f"a step is not replayed as a CUDA graph: {error}")
            return False
        return True


def build_step(
    model: GPT2Model,
    optimizer: torch.optim.Optimizer,
    replica: Replica,
    *,
    dtype: torch.dtype,
    grad_clip: float,
    flops: float,
    alone: bool,
    notify: Callable[[str], None],
) -> TrainStep:
    """Return the step that suits a run: replayed as a graph where starting kernels is what small steps wait for.

    Args:
        model: on its device.
        optimizer: see `TrainStep`.
        replica: see `TrainStep`.
        dtype: see `TrainStep`.
        grad_clip: see `TrainStep`.
        flops: of one micro-step, forward and backward.
        alone: whether one process trains.
        notify: hears when a graph could not be recorded.
    """
    device = next(model.parameters()).device
    step = TrainStep(model, optimizer, dtype=dtype, grad_clip=grad_clip, replica=replica)
    if device.type != "cuda" or torch.version.hip or flops > LARGEST or not alone or step.scaler is not None:
        return step
    if model.config.dropout or model.recompute:  # both keep the state of the random numbers on the host
        return step
    return GraphedStep(model, optimizer, dtype=dtype, grad_clip=grad_clip, replica=replica, notify=notify)
