"""The memory that training steps take, apart from imports, evaluations and whatever else the process did before.

A process's own peak is set by what is largest in it, often an evaluation or an import. On CUDA the allocator counts
tensors, and its peak can be set back. On a CPU nobody counts tensors: there it is the rise of the process's resident
memory while it takes its first steps, with the weights and the optimizer's state that were there before. Linux alone
lets a process set that peak back (proc(5), clear_refs); elsewhere nothing is recorded.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vgpt.training.hardware.allocator import give_back_freed_memory

_STEPS = 5
"""Steps that are looked at: the second holds all there is, and later ones touch ever more pages of the data."""
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


class StepMemory:
    """Watches the first steps that this process takes.

    Args:
        device: where they are taken.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak: int | None = None
        self._device = device
        self._base = 0
        self._left = 0

    def begin(self, held: Iterable[Tensor]) -> None:
        """Set the peak back before the first step; `held` are weights and optimizer state."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            give_back_freed_memory()  # what is kept of earlier work would be taken again without being noticed
            try:
                _CLEAR.write_text(_RESET_PEAK)
                self._base = _status("VmRSS") - sum(map(_nbytes, held))
            except (OSError, ValueError):
                return
        else:
            return
        self._left = _STEPS

    def step(self) -> None:
        """Look after a step."""
        if self._left:
            self._left -= 1
            if self._device.type == "cuda":
                self.peak = torch.cuda.max_memory_allocated(self._device)
            else:
                self.peak = max(0, _status("VmHWM") - self._base)

    def end(self) -> None:
        """Look no more: what follows is no step."""
        self._left = 0


def _status(name: str) -> int:
    """Return a size of this process in bytes.

    Raises:
        OSError, ValueError: the system does not tell.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def _nbytes(tensor: Tensor) -> int:
    local = getattr(tensor, "to_local", lambda: tensor)()  # of a sharded tensor, the share that is here
    return local.numel() * local.element_size() if local.device.type == "cpu" else 0
