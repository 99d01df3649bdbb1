"""One optimizer update: forward, backward, clip, step. No logging, no data, no schedule.

Nothing here waits for a GPU: the fused optimizer itself leaves out an update whose gradient is not finite.
"""

from collections.abc import Sequence
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
