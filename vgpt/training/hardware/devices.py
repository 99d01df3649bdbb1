"""Which device and precision a run is computed in, and what the hardware is called."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from vgpt.errors import UsageError
from vgpt.settings.train import SystemSettings
from vgpt.training.hardware.memory import keep_freed_memory
from vgpt.training.hardware.threads import use_threads

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products.

    Attributes:
        device: where a run is computed.
        dtype: type of its matrix products.
        reason: why an `auto` precision was chosen.
        tf32: whether products of float32 run as TensorFloat-32.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str
    tf32: bool = False

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
    use_threads(settings.threads)
    if local_rank is not None:
        refuse_one_of_many(settings.device)
    device = _device(settings.device)
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", own_gpu(local_rank, torch.cuda.device_count()))
    tf32 = settings.tf32 and device.type == "cuda"
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if device.type == "cpu":
        keep_freed_memory()
    if settings.dtype == "auto":
        dtype, reason = _native_dtype(device)
        return Compute(device, dtype, reason, tf32)
    if settings.dtype == "float16" and device.type == "cpu":
        raise UsageError(
            "--dtype float16 has no gradient scaling on the CPU and would lose small gradients",
            "Use --dtype bfloat16 or --dtype float32.",
        )
    return Compute(device, _DTYPES[settings.dtype], "as asked", tf32)


def sum_device(device: torch.device) -> torch.device:
    """Return where sums in float64 of what a device computes are kept: there, or on the CPU where it has none (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


def refuse_one_of_many(device: str) -> None:
    """Refuse the number of a GPU where several processes train, each of which takes one of its own.

    Raises:
        UsageError: the device has a number.
    """
    kind, _, number = device.partition(":")
    if number:
        raise UsageError(
            f"--device {device} names one {kind.upper()} device, and several processes are to train",
            f"Choose GPUs by CUDA_VISIBLE_DEVICES={number},... in the environment, and write --device {kind}.",
        )


def own_gpu(local_rank: int, visible: int) -> int:
    """Return the number of a process's GPU among those it sees.

    Args:
        local_rank: number of the process on its machine.
        visible: how many GPUs it sees: all of the machine, or its own alone (as Slurm's --gpus-per-task arranges).

    Raises:
        UsageError: there are more processes than GPUs.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UsageError(
            f"process {local_rank} of this machine has no GPU of its own: it sees {visible}",
            "Start one process per GPU, or more than one on the CPU with --device cpu.",
        )
    return local_rank


def count_gpus() -> int:
    """Return how many processes `--nproc gpu` means.

    Raises:
        UsageError: there is no GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UsageError("--nproc gpu: this machine has no CUDA device", "Use --nproc with a number.")
    return count


def refuse_too_many_processes(settings: SystemSettings, nproc: int) -> None:
    """Refuse to start more processes than this machine has GPUs, where that is what they train on.

    Raises:
        UsageError: so many are asked for, or one GPU by its number.
    """
    if nproc > 1:
        refuse_one_of_many(settings.device)
        device = _device(settings.device)
        if device.type == "mps":
            raise UsageError(
                f"--nproc {nproc}: processes cannot train together on Apple's GPU", "Use --nproc 1, or --device cpu."
            )
        if device.type == "cuda" and nproc > (count := torch.cuda.device_count()):
            raise UsageError(
                f"--nproc {nproc}: this machine has {count} GPU{'s' * (count != 1)}, and each process needs one",
                f"Use --nproc {count}, or --device cpu.",
            )


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
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.version.hip:  # of which torch says that they all have it
            native = amd_multiplies_bfloat16(torch.cuda.get_device_properties(device).gcnArchName)
        return gpu_dtype(torch.cuda.get_device_capability(device), bfloat16=native)
    if device.type == "cpu":
        if found := {"avx512_bf16", "amx_bf16"} & cpu_flags():
            return torch.bfloat16, f"the CPU has {min(found)}"
        return torch.float32, "the CPU has neither avx512_bf16 nor AMX"
    return torch.float32, "bfloat16 is not used on this device"


def gpu_dtype(capability: tuple[int, int], *, bfloat16: bool) -> tuple[torch.dtype, str]:
    """Return the fastest safe precision of a GPU, and why.

    Args:
        capability: its compute capability.
        bfloat16: whether it multiplies bfloat16 natively.
    """
    if bfloat16:
        return torch.bfloat16, "the GPU computes it natively"
    version = ".".join(map(str, capability))
    if capability >= (7, 0):
        return torch.float16, f"compute capability {version} has no native bfloat16; losses are scaled"
    return torch.float32, f"compute capability {version} has neither native bfloat16 nor fast float16"


def amd_multiplies_bfloat16(architecture: str) -> bool:
    """Return whether an AMD chip (`gfx90a:sramecc+:xnack-`) has matrix units that take bfloat16: CDNA, RDNA 3 and on.

    Source: LLVM's user guide for the AMDGPU target, the instructions v_mfma_*_bf16 and v_wmma_*_bf16.
    """
    chip = architecture.partition(":")[0]
    return chip.startswith(("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12"))


def cpu_flags() -> set[str]:
    """Return the names of the processor's instruction sets, as Linux spells them; nothing elsewhere."""
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
