"""Writes checkpoints beside training: a copy of the tensors is taken at once, the disk is waited for elsewhere."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from vgpt.errors import VgptError
from vgpt.model.config import GPT2Config
from vgpt.settings.train import TrainConfig
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.checkpoint import TrainingState, point, rotate, save_checkpoint


@dataclass(frozen=True)
class Copies:
    """Copies by name, complete after `wait`, which any thread may call."""

    tensors: dict[str, Tensor]
    _there: list[torch.cuda.Event] = field(default_factory=list[torch.cuda.Event])

    def wait(self) -> dict[str, Tensor]:
        """Return the tensors when all of their bytes are there."""
        for event in self._there:
            event.synchronize()
        return self.tensors


class HostCopies:
    """Takes copies of the same tensors again and again; there is one set of copies at a time.

    CUDA tensors are copied into pinned memory, which is made once: a device writes there by itself, while pageable
    memory is filled by the host in small pieces. Copying is queued behind what the device computes now and before what
    it is asked to compute later, so that nobody waits.
    """

    def __init__(self) -> None:
        self._pinned: dict[str, Tensor] = {}

    def take(self, tensors: dict[str, Tensor]) -> Copies:
        """Copy tensors of distinct names; the copies taken before must no longer be in use."""
        copies = {name: self._copy(name, tensor.detach()) for name, tensor in tensors.items()}
        there: list[torch.cuda.Event] = []
        for device in {tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            there.append(event)
        return Copies(copies, there)

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True).contiguous()
        buffer = self._pinned.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = self._pinned[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return buffer.copy_(tensor, non_blocking=True)


@dataclass(frozen=True)
class Saved:
    """How a save ended: the directory, or None; `error` is why there is none, or why no pointer names it."""

    step: int
    path: Path | None
    error: str = ""


class Saver:
    """Saves one run's checkpoints, one at a time.

    Args:
        settings: of the run.
        model: its architecture.
        tokenizer: goes into every checkpoint.
        ended: hears of every save, on the thread that calls `save` or `wait`.
    """

    def __init__(
        self, settings: TrainConfig, model: GPT2Config, tokenizer: Tokenizer, ended: Callable[[Saved], None]
    ) -> None:
        self.directory = settings.directory / "ckpt"
        self._settings, self._model, self._tokenizer, self._ended = settings, model, tokenizer, ended
        self._rooms = HostCopies(), HostCopies()
        self._thread: threading.Thread | None = None
        self._result: Saved | None = None

    def save(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: TrainingState) -> None:
        """Copy everything and begin to write it; waits for the save before, if that is still going on."""
        self.wait()
        copies = [room.take(tensors) for room, tensors in zip(self._rooms, (weights, optimizer), strict=True)]
        snapshot = replace(state, scaler=dict(state.scaler))
        # What holds if the thread dies of something unforeseen: never the success of the save before.
        self._result = Saved(state.step, None, "its writer ended unexpectedly")
        self._thread = threading.Thread(target=self._write, args=(*copies, snapshot), name="vgpt-saver")
        self._thread.start()

    def poll(self) -> None:
        """Report a save that has ended, without waiting for one that has not."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._result is not None:
            self._ended(self._result)

    def _write(self, weights: Copies, optimizer: Copies, state: TrainingState) -> None:
        try:
            target = save_checkpoint(
                self.directory,
                model=self._model,
                weights=weights.wait(),
                optimizer=optimizer.wait(),
                state=state,
                settings=self._settings,
                tokenizer=self._tokenizer,
            )
        except (OSError, SafetensorError, VgptError) as error:
            self._result = Saved(state.step, None, str(error))
            return
        self._result = Saved(state.step, target)
        try:
            point(self.directory, "last", target)
            if state.best_step == state.step:
                point(self.directory, "best", target)
            rotate(self.directory, self._settings.run.keep_last, target)
        except OSError as error:
            # The checkpoint stands; a run that goes on from it mends what names it.
            self._result = Saved(state.step, target, str(error))
