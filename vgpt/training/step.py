"""One optimizer update: forward, backward, clip, step; and its result, read when it is there. No logging, no data.

Nobody waits for the device after an update: whether it was left out is read late, when that is known.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vgpt.model.gpt2 import GPT2Model
from vgpt.training.parallel.replica import Replica

_EPS = 1e-6
"""Added to the norm that gradients are divided by, as in `clip_grad_norm_`."""


@dataclass(frozen=True)
class StepResult:
    """What one update saw; tensors stay on the device, so that reading them is the caller's choice.

    Attributes:
        loss: mean loss in nats over this process's micro-batches, before the update.
        grad_norm: global norm of the gradient before clipping.
        skipped: boolean without dimensions: whether the update was left out because the gradient is not finite; all
            processes agree on it. With loss scaling always false.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor


class TrainStep:
    """Apply updates to a model.

    Args:
        model: in training mode, on its device, parameters in float32.
        optimizer: over the model's parameters.
        dtype: type of matrix products; bfloat16 and float16 run under autocast, float16 on CUDA with loss scaling.
        grad_clip: largest global gradient norm; 0 for no limit.
        replica: how this process holds the model; alone by default.
    """

    def __init__(
        self,
        model: GPT2Model,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype = torch.float32,
        grad_clip: float = 1.0,
        replica: Replica | None = None,
    ) -> None:
        self.model = model
        self.replica = replica or Replica(model)
        self.optimizer = optimizer
        self.dtype = dtype
        self.grad_clip = grad_clip
        self.device = next(model.parameters()).device
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        scaled = dtype == torch.float16 and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type) if scaled else None

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which this step computes its losses; evaluation should use the same."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def __call__(self, batches: Sequence[tuple[Tensor, Tensor]], lr: float) -> StepResult:
        """Update once from `batches` of (ids, targets), each (B, T) and of equal size, their gradients averaged."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        result = self._forward_backward_step(batches)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _forward_backward_step(self, batches: Sequence[tuple[Tensor, Tensor]]) -> StepResult:
        """Update at the learning rate that is set; gradients remain."""
        last = len(batches) - 1
        losses = [self._backward(*batch, len(batches), last=i == last) for i, batch in enumerate(batches)]
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = self._norm()
        skipped = self._update(norm)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        return StepResult(loss, norm, skipped)

    def _update(self, norm: Tensor) -> Tensor:
        """Clip the gradient of this norm and let the optimizer step; return whether it had to leave that out."""
        if self.scaler is not None:
            # Loss scaling looks for the limit of float16 by going past it, and leaves out those updates itself.
            self._clip(norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return torch.zeros((), dtype=torch.bool, device=self.device)
        skipped = ~norm.isfinite()
        optimizer: Any = self.optimizer
        # As GradScaler does: the fused kernel reads both where they are. It divides by the one as it reads gradients,
        # and where the other says so changes nothing and takes back the count of the step.
        if self.device.type in ("cpu", "cuda"):
            optimizer.grad_scale = self._divisor(norm)
        else:
            self._clip(norm)
        optimizer.found_inf = skipped.float()
        optimizer.step()
        return skipped

    def _backward(self, ids: Tensor, targets: Tensor, accumulate: int, *, last: bool) -> Tensor:
        with self.replica.micro_step(last):
            with self.autocast():
                loss = self.replica.loss(ids, targets)
            part = loss if accumulate == 1 else loss / accumulate
            (part if self.scaler is None else self.scaler.scale(part)).backward()
        return loss.detach()

    def _norm(self) -> Tensor:
        """Return the norm of the whole gradient."""
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if hasattr(norm, "full_tensor"):
            return norm.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]  # a DTensor, of shared gradients
        return norm

    def _divisor(self, norm: Tensor) -> Tensor | None:
        """Return what gradients of this norm are divided by to keep the limit; None for nothing."""
        # Where reading the norm costs no synchronization, gradients within the limit are left alone.
        if not self.grad_clip or (self.device.type == "cpu" and not norm > self.grad_clip):
            return None
        return ((norm + _EPS) / self.grad_clip).clamp(min=1.0)

    def _clip(self, norm: Tensor) -> None:
        """Scale gradients down to the limit."""
        if self.grad_clip:
            clip_grads_with_norm_(self.parameters, self.grad_clip, norm)


@dataclass(frozen=True)
class _Late:
    step: int
    batches: str
    result: StepResult
    skipped: Tensor
    there: torch.cuda.Event | None


class LateResults:
    """Holds the results of the latest updates until whether they were left out can be read without waiting.

    On CUDA the host works one update ahead of what it knows, so that the device never runs out of work; elsewhere
    results are there at once.

    Args:
        device: where updates are computed.
        ahead: updates that are made before the first of them is certain; by default 1 on CUDA.
    """

    def __init__(self, device: torch.device, *, ahead: int | None = None) -> None:
        self._on_gpu = device.type == "cuda"
        self._ahead = int(self._on_gpu) if ahead is None else ahead
        self._held: deque[_Late] = deque()

    def add(self, step: int, batches: str, result: StepResult) -> None:
        """Take the result of an update: its number, counted from 1, and the hash of what was trained on up to it."""
        skipped, there = result.skipped, None
        if self._on_gpu:
            skipped = torch.empty((), dtype=torch.bool, pin_memory=True)
            skipped.copy_(result.skipped, non_blocking=True)
            there = torch.cuda.Event()
            there.record()
        self._held.append(_Late(step, batches, result, skipped, there))

    def take(self, *, all_of_them: bool = False) -> Iterator[tuple[int, str, StepResult, bool]]:
        """Yield step, hash, result and whether it was left out, of the updates that are certain by now.

        Args:
            all_of_them: wait for the newest too.
        """
        while len(self._held) > (0 if all_of_them else self._ahead):
            late = self._held.popleft()
            if late.there is not None:
                late.there.synchronize()
            yield late.step, late.batches, late.result, bool(late.skipped)
