"""Who made this machine's processor."""

from functools import cache
from pathlib import Path


@cache
def vendor() -> str:
    """Return the maker as the processor spells it, such as "GenuineIntel" or "AuthenticAMD"; empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
