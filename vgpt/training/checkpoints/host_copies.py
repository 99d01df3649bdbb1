"""Copies of tensors in the host's memory, taken beside work that goes on changing the originals."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
