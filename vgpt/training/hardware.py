"""Peak FLOP rates: published ones for known devices, measured ones for all others.

MFU (model FLOPs utilisation, PaLM, arXiv 2204.02311 appendix B) divides by the peak; a guessed one makes every MFU
wrong, so a device that is not in the table is measured by a matrix product, and the record says which it was.
"""

import sys
import time
from dataclasses import dataclass
from functools import cache

import psutil
import torch

from vgpt.training.devices import Compute

# Dense rates in TFLOP/s from the vendors' data sheets: (part of the device's name, bfloat16 and float16, float32).
# float32 is the rate without TF32, which vgpt does not switch on by itself.
_PUBLISHED = (
    ("H200", 989.4, 66.9),
    ("H100 PCIe", 756.0, 51.2),
    ("H100 NVL", 835.5, 60.0),
    ("H100", 989.4, 66.9),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.2, 35.6),
)
_PROBE_SECONDS = 0.6


@dataclass(frozen=True)
class Peak:
    """The highest FLOP rate of a device in one precision, in FLOP/s; `source` is "published" or "measured"."""

    flops: float
    source: str


def peak_flops(compute: Compute) -> Peak:
    """Return the peak of the run's device and precision."""
    if compute.device.type == "cuda":
        for part, half, single in _PUBLISHED:
            if part in compute.device_name:
                return Peak((single if compute.dtype is torch.float32 else half) * 1e12, "published")
    return Peak(_measure(compute), "measured")


@cache
def _measure(compute: Compute) -> float:
    """Return the best FLOP rate of repeated square matrix products over about half a second."""
    size = 1024 if compute.device.type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(compute.device, compute.dtype) for _ in range(2))
    best = 0.0
    end = time.perf_counter() + _PROBE_SECONDS
    rounds = 0
    while rounds < 4 or time.perf_counter() < end:
        _wait(compute.device)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(compute.device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
        rounds += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far in bytes: of tensors on an accelerator, resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return peak_resident()


def peak_resident() -> int:
    """Return the largest resident size of this process in bytes."""
    info = psutil.Process().memory_info()
    peak = getattr(info, "peak_wset", None)  # Windows keeps it; elsewhere getrusage does
    if peak is not None:
        return int(peak)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
