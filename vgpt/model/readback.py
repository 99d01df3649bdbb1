"""Chosen tokens on their way from the device to the host, which does not wait for the newest of them."""

from collections import deque

import torch
from torch import Tensor

NOT_FINITE = -1
"""Stands for the tokens of a step whose logits are not numbers."""


class Readback:
    """Hands out tokens step by step, in order.

    On CUDA the host works one step ahead of what it knows, so that the device never waits for it; elsewhere tokens are
    there at once.

    Args:
        device: where tokens are chosen.
        ahead: steps that may be under way; by default 1 on CUDA.
    """

    def __init__(self, device: torch.device, *, ahead: int | None = None) -> None:
        self._on_gpu = device.type == "cuda"
        self._ahead = int(self._on_gpu) if ahead is None else ahead
        self._under_way: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def send(self, chosen: Tensor, finite: Tensor) -> None:
        """Send the tokens (B,) of one step, and whether its logits are numbers."""
        tokens, there = torch.where(finite, chosen, NOT_FINITE), None
        if self._on_gpu:
            # The buffer goes back to a pool of torch's own, so that a new one for each step costs nothing.
            landed = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            tokens = landed.copy_(tokens, non_blocking=True)
            there = torch.cuda.Event()
            there.record()
        self._under_way.append((tokens, there))

    def arrived(self, *, wait: bool = False) -> list[list[int]]:
        """Return the tokens of the steps that are not under way any more; with `wait`, of all."""
        steps: list[list[int]] = []
        while len(self._under_way) > (0 if wait else self._ahead):
            tokens, there = self._under_way.popleft()
            if there is not None:
                there.synchronize()
            steps.append(tokens.tolist())
        return steps
