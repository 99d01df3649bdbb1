"""The memory of a training process: how it is handed out, what steps take of it, and what is in use at a moment.

By default the C library gives much of what is freed back to the system, only to ask for it again. A training step
allocates and frees the same tensors each time; glibc returns large ones to the system at once, and every page that it
gets anew is cleared by the kernel first. Kept memory is reused as it is. How much faster steps are, by
benchmarks/kept_memory.py on 2 cores of an AMD EPYC, at the same peak of memory within 4%:

    layers x width, tokens of a sequence    4x128, 64    6x384, 256    12x768, 1024
    float32                                      1.03          1.02            1.06
    bfloat16                                     1.38          1.14            1.33

A process's own peak is set by what is largest in it, often an evaluation or an import. On CUDA the allocator counts
tensors, and its peak can be set back. On a CPU nobody counts tensors: there it is the rise of the process's resident
memory while it takes its first steps, with the weights and the optimizer's state that were there before. Linux alone
lets a process set that peak back (proc(5), clear_refs); elsewhere nothing is recorded.
"""

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch
from torch import Tensor

# From malloc.h. Blocks from the mmap threshold on go back at once; older glibc allows no more than the second value.
_MMAP_THRESHOLD, _LARGEST_KEPT = -3, (2**30, 2**25)
_TRIM_THRESHOLD, _KEPT_IN_ALL = -1, 2**31 - 1
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for its next use; return whether it does from now on.

    False where the C library is not glibc, and where the environment says already how glibc shall go about it.
    """
    chosen = any(name in os.environ for name in _SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    # Both, or neither: a trim threshold alone stops glibc from raising the other by itself.
    return any(set_option(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT) and bool(
        set_option(_TRIM_THRESHOLD, _KEPT_IN_ALL)
    )


def give_back_freed_memory() -> None:
    """Have glibc return to the system what it keeps of freed memory; other C libraries are left alone."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


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


class Usage:
    """Measures this process and its machine; shares of the processor are means since the last measurement.

    Args:
        device: that the process computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        # The first answer of psutil has no interval to be a mean of.
        self._process.cpu_percent()
        psutil.cpu_percent()

    def measure(self) -> dict[str, float]:
        """Return the figures under their names in the tracking schema; what cannot be read here is left out."""
        try:
            found = {
                "system/cpu_percent": psutil.cpu_percent(),
                "system/process_cpu_percent": self._process.cpu_percent(),
                "system/resident_bytes": float(self._process.memory_info().rss),
                "system/memory_percent": psutil.virtual_memory().percent,
            }
        except (psutil.Error, OSError):
            found = {}
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            found["system/gpu_allocated_bytes"] = float(torch.cuda.memory_allocated(self._device))
            found["system/gpu_reserved_bytes"] = float(torch.cuda.memory_reserved(self._device))
            found["system/gpu_memory_percent"] = 100 * (total - free) / total
        return found
