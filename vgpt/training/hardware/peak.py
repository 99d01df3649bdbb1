"""Peak FLOP rates: published ones for known devices, measured ones for all others.

MFU (model FLOPs utilization, PaLM, arXiv 2204.02311 appendix B) divides by the peak; a guessed one makes every MFU
wrong, so a device that is not in the table is measured by a matrix product, and the record says which it was.
"""

import sys
import time
from dataclasses import dataclass
from functools import cache

import psutil
import torch

from vgpt.model.products import matmul
from vgpt.training.hardware.devices import Compute

# Dense rates in TFLOP/s from the vendors' data sheets, (bfloat16 and float16, float32 as TF32, float32 proper), by the
# device's whole name without the maker's: a laptop's chip, a partition (MIG) or another board has rates of its own.
_H100_SXM, _NVL, _A100 = (989.4, 494.7, 66.9), (835.5, 417.7, 60.0), (312.0, 156.0, 19.5)
_PUBLISHED = {
    "H200": _H100_SXM,
    "H200 NVL": _NVL,
    "H100 80GB HBM3": _H100_SXM,
    "H100 NVL": _NVL,
    "H100 PCIe": (756.0, 378.0, 51.2),
    "A100-SXM4-40GB": _A100,
    "A100-SXM4-80GB": _A100,
    "A100-PCIE-40GB": _A100,
    "A100 80GB PCIe": _A100,
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "GeForce RTX 4090": (165.2, 82.6, 82.6),
    "GeForce RTX 3090": (71.2, 35.6, 35.6),
}
_PROBE_SECONDS = 0.4
_SECOND_PROBE_SECONDS = 0.2
_CPU_SIZE, _LESS = 2048, 1024
"""Rows of the products on a CPU, of which small ones read bfloat16 1.8 times too low; less where they take too long."""


@dataclass(frozen=True)
class Peak:
    """The highest FLOP rate of a device in one precision, in FLOP/s; `source` is "published" or "measured"."""

    flops: float
    source: str


def peak_flops(compute: Compute) -> Peak:
    """Return the peak of the run's device and precision."""
    if compute.device.type == "cuda" and (rate := published(compute.device_name, compute.dtype, tf32=compute.tf32)):
        return Peak(rate, "published")
    return Peak(_measure(compute), "measured")


def published(name: str, dtype: torch.dtype, *, tf32: bool) -> float | None:
    """Return the published dense FLOP/s of the device with exactly this name, or None.

    Args:
        name: as the driver spells it, such as "NVIDIA H100 PCIe".
        dtype: type of the products.
        tf32: whether those of float32 run as TensorFloat-32.
    """
    rates = _PUBLISHED.get(name.removeprefix("NVIDIA "))
    if rates is None:
        return None
    half, as_tf32, single = rates
    return 1e12 * (half if dtype.itemsize == 2 else as_tf32 if tf32 else single)


def peak_again(compute: Compute, peak: Peak) -> Peak:
    """Return the larger of a measured peak and another, shorter measurement: the machine was perhaps busy then.

    The first stands at the start of a run, this one at its end.
    """
    if peak.source != "measured":
        return peak
    return Peak(max(peak.flops, _best_rate(compute, _SECOND_PROBE_SECONDS)), peak.source)


@cache
def _measure(compute: Compute) -> float:
    return _best_rate(compute, _PROBE_SECONDS)


def _best_rate(compute: Compute, seconds: float) -> float:
    """Return the best FLOP rate of square matrix products, repeated for about so many seconds."""
    if compute.device.type != "cpu":
        return _best_of(compute, 8192, seconds)
    # A first product wakes the threads and tells how long larger ones will take.
    rate = _best_of(compute, _LESS, 0.0)
    affordable = 2 * _CPU_SIZE**3 / rate < seconds / 2
    return max(rate, _best_of(compute, _CPU_SIZE if affordable else _LESS, seconds))


def _best_of(compute: Compute, size: int, seconds: float) -> float:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(compute.device, compute.dtype) for _ in range(2))
    best = 0.0
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 2 or time.perf_counter() < end:
        _wait(compute.device)
        start = time.perf_counter()
        matmul(left, right)
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


@dataclass(frozen=True)
class Costs:
    """What turns tokens per second into utilization: FLOPs per token by both conventions, and the peak FLOP/s."""

    flops_per_token: float
    palm_flops_per_token: float
    peak_flops: float

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization, exact pairs."""
        return tokens_per_second * self.flops_per_token / self.peak_flops

    def mfu_palm(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization as in the PaLM paper."""
        return tokens_per_second * self.palm_flops_per_token / self.peak_flops

    def rates(self, tokens_per_second: float) -> dict[str, float]:
        """Return a speed and what it makes of the peak, under their names in the tracking schema."""
        return {
            "perf/tokens_per_second": tokens_per_second,
            "perf/mfu": self.mfu(tokens_per_second),
            "perf/mfu_palm": self.mfu_palm(tokens_per_second),
        }
