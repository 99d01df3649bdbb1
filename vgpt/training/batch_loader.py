"""Brings a process's batches to its device; for CUDA those of the next step are read while this one is computed."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from vgpt.data.batches import BatchSource
from vgpt.training.parallel.distributed import World


@dataclass(frozen=True)
class StepBatches:
    """What one process trains on in one step.

    Attributes:
        micro: micro-batches of (ids, targets), each (B, T).
        digest: hash of the whole step's batch, of all processes.
    """

    micro: list[tuple[Tensor, Tensor]]
    digest: str


class BatchLoader:
    """Reads the batches of any step.

    Batches are a function of the step alone: reading ahead changes when they are read, never what is read.

    Args:
        source: the rows of every step. Nothing else may read it while the loader is in use.
        accumulate: micro-steps of a step.
        world: which process this is.
        device: where batches go; to CUDA from pinned memory, without waiting for the copy.
        ahead: have a thread read the step after the one that is asked for; by default for CUDA, where this process
            only waits meanwhile.
    """

    def __init__(
        self, source: BatchSource, accumulate: int, world: World, device: torch.device, *, ahead: bool | None = None
    ) -> None:
        self._source, self._accumulate, self._world, self._device = source, accumulate, world, device
        self._pinned = device.type == "cuda"
        ahead = self._pinned if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, "vgpt-feed") if ahead else None
        self._next: tuple[int, Future[StepBatches]] | None = None

    def step(self, step: int) -> StepBatches:
        """Return the batches of a step, counted from 0, on the device."""
        if self._thread is None:
            found = self._read(step)
        else:
            if self._next is None or self._next[0] != step:
                self._next = (step, self._thread.submit(self._read, step))
            found = self._next[1].result()
            self._next = (step + 1, self._thread.submit(self._read, step + 1))
        return StepBatches([(self._moved(ids), self._moved(targets)) for ids, targets in found.micro], found.digest)

    def close(self) -> None:
        """End the reading; a step that is asked for later is an error where the loader reads ahead."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _read(self, step: int) -> StepBatches:
        """Read a step into memory that the device can copy from."""
        rank, size = self._world.rank, self._world.size
        share = [
            self._source.batch(step, micro_step=micro, grad_accum=self._accumulate, rank=rank, world_size=size)
            for micro in range(self._accumulate)
        ]
        micro = [(self._held(torch.from_numpy(ids)), self._held(torch.from_numpy(goals))) for ids, goals in share]
        return StepBatches(micro, self._source.digest(step, grad_accum=self._accumulate, world_size=size))

    def _held(self, ids: Tensor) -> Tensor:
        return ids.pin_memory() if self._pinned else ids

    def _moved(self, ids: Tensor) -> Tensor:
        return ids.to(self._device, non_blocking=self._pinned)
