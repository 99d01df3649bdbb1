"""Which device and precision a run is computed in, and what the hardware is called."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from vgpt.errors import UsageError
from vgpt.settings.train import SystemSettings
from vgpt.training.allocator import keep_freed_memory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products; `reason` says why an `auto` precision was chosen."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """The precision's name, as in settings."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """The hardware's own name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return cpu_name() if self.device.type == "cpu" else platform.machine()


def resolve(settings: SystemSettings, *, local_rank: int | None = None) -> Compute:
    """Choose device and precision, and set this process up for them.

    Args:
        settings: what is asked for.
        local_rank: number of this process among those on this machine, each of which gets a GPU of its own.

    Raises:
        UsageError: the asked device or precision is not to be had here.
    """
    device = _device(settings.device)
    if device.type == "cuda" and local_rank is not None:
        device = _device(f"cuda:{local_rank}")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    if device.type == "cpu":
        keep_freed_memory()
    if settings.dtype == "auto":
        dtype, reason = _native_dtype(device)
        return Compute(device, dtype, reason)
    if settings.dtype == "float16" and device.type == "cpu":
        raise UsageError(
            "--dtype float16 has no gradient scaling on the CPU and would lose small gradients",
            "Use --dtype bfloat16 or --dtype float32.",
        )
    return Compute(device, _DTYPES[settings.dtype], "as asked")


def chosen(settings: SystemSettings) -> tuple[str, str]:
    """Return the device and the precision that settings come to here, without setting anything up.

    Raises:
        UsageError: the device is not to be had here.
    """
    device = _device(settings.device)
    dtype = settings.dtype if settings.dtype != "auto" else str(_native_dtype(device)[0]).removeprefix("torch.")
    return str(device), dtype


def hardware(settings: SystemSettings) -> tuple[str, str]:
    """Return the hardware's name, without its threads, and the precision that settings come to; empty where neither."""
    try:
        name, dtype = chosen(settings)
    except UsageError:
        return "", ""
    return Compute(torch.device(name), torch.float32, "").device_name.partition(" (")[0], dtype


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"--device {name}: this machine has {count} CUDA devices", "Use --device auto or cpu.")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps is not available on this machine", "Use --device auto or cpu.")
    return device


def _native_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major >= 8:
            return torch.bfloat16, "bfloat16 is native from compute capability 8.0 on"
        return torch.float32, f"compute capability {major}.x has no native bfloat16"
    if device.type == "cpu":
        if native := {"avx512_bf16", "amx_bf16"} & _cpu_flags():
            return torch.bfloat16, f"the CPU has {min(native)}"
        return torch.float32, "the CPU has neither avx512_bf16 nor AMX"
    return torch.float32, "bfloat16 is not used on this device"


def _cpu_flags() -> set[str]:
    # torch reports what it can use, but only in names of its own that changed between releases; Linux says it plainly.
    line = _cpuinfo("flags")
    return set(line.split()) if line else set()


@cache
def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def cpu_name() -> str:
    """Return the processor's name with the number of threads that torch uses."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return f"{name} ({torch.get_num_threads()} threads)"
