"""Locks on open files, and what becomes of them on file systems that have none (Lustre without `flock`, some NFS)."""

import errno
import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
_PAUSE_SECONDS = 0.02


def lock(descriptor: int, *, shared: bool = False, timeout: float = 0.0) -> bool | None:
    """Lock an open file, or a folder, until it is closed.

    Args:
        descriptor: of the open file.
        shared: whether others may hold the same kind of lock.
        timeout: seconds to wait for whoever holds it; infinite for ever.

    Returns:
        Whether it is locked now; None where this file system knows no locks, and the caller goes on without.

    Raises:
        OSError: the file cannot be locked for another reason.
    """
    if fcntl is None:
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise


def open_folder(path: "os.PathLike[str]") -> int:
    """Open a folder to lock it."""
    return os.open(path, os.O_RDONLY)  # not inherited: PEP 446
