"""Where a result comes from: versions, hardware and commit, recorded with every run."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vgpt import __version__
from vgpt.training.devices import Compute, cpu_name


def environment(compute: Compute) -> dict[str, Any]:
    """Return what a reader needs to repeat a run elsewhere. No environment variables: they may hold secrets."""
    return {
        "vgpt": __version__,
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


def commit() -> str:
    """Return the commit of vgpt's own source tree, with `+` where it has changes; empty where it is installed."""
    root = Path(__file__).parents[2]
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
