"""Results of updates, read when they are there instead of waiting for the device after each."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vgpt.training.step import StepResult


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
