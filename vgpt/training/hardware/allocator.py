"""How the C library hands out memory: by default it gives much of it back to the system, only to ask for it again.

A training step allocates and frees the same tensors each time. glibc returns large ones to the system at once, and
every page that it gets anew is cleared by the kernel first. Kept memory is reused as it is. How much faster steps are,
by benchmarks/kept_memory.py on 2 cores of an AMD EPYC, at the same peak of memory within 4%:

    layers x width, tokens of a sequence    4x128, 64    6x384, 256    12x768, 1024
    float32                                      1.03          1.02            1.06
    bfloat16                                     1.38          1.14            1.33
"""

import ctypes
import os
import platform

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
