"""Where a result comes from: versions, hardware, code and commit, recorded with every run."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vgpt.package import PACKAGE, VERSION
from vgpt.training.checkpoints.checkpoint import TrainingState
from vgpt.training.hardware.devices import Compute, cpu_name
from vgpt.training.records.source_code import replaced_functions, source_digest

_ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "JE_MALLOC")
"""How names of environment variables begin that choose or tune the allocator."""
_KERNELS = ("ATEN_CPU_CAPABILITY", "DNNL_", "ONEDNN_", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Likewise those that choose the kernels of matrix products."""


def environment(compute: Compute) -> dict[str, Any]:
    """Return what a reader needs to repeat a run elsewhere. No environment variables: they may hold secrets."""
    return {
        "vgpt": VERSION,
        "git": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "device": str(compute.device),
        "device_name": compute.device_name,
        "cpu": cpu_name(),
        "dtype": compute.dtype_name,
        "dtype_reason": compute.reason,
    }


def facts(compute: Compute) -> dict[str, str]:
    """Return what decides a result besides settings and data, as tags: code, libraries, instruction set, threads.

    A run that is continued under other facts keeps both, in the order in which they held.
    """
    return {
        "vgpt.source": source_digest(),
        "vgpt.replaced": replaced_functions() or "nothing",
        "vgpt.git": commit(),
        "vgpt.version": VERSION,
        "vgpt.torch": _version("torch"),
        "vgpt.numpy": _version("numpy"),
        "vgpt.device": compute.device_name,
        "vgpt.cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "vgpt.threads": str(torch.get_num_threads()),
        "vgpt.allocator": _variables(_ALLOCATOR),
        "vgpt.kernels": _variables(_KERNELS),
    }


def note_facts(state: TrainingState, compute: Compute) -> None:
    """Add to a run's state what this process, which goes on with it, finds of code and machine."""
    for name, value in facts(compute).items():
        before = state.facts.setdefault(name, [])
        if not before or before[-1] != value:
            before.append(value)


def _variables(beginnings: tuple[str, ...]) -> str:
    """Return the environment variables that begin so, as text; their values are no secrets."""
    found = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(beginnings))
    return " ".join(found) or "default"


def commit() -> str:
    """Return the commit of vgpt's own source tree, with `+` where it has changes; empty where it is installed."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
