"""Advisory locks of open files, and what is done where a file system has none (some Lustre and NFS mounts)."""

import errno
import time
from enum import Enum

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

# What flock answers where the mount has no locks: not implemented, none left to give, not supported.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


class Lock(Enum):
    """What became of a wish for a lock."""

    HELD = "held"
    BUSY = "busy"
    UNSUPPORTED = "unsupported"


def lock_file(fd: int, *, shared: bool = False, timeout: float | None = 0.0, pause: float = 0.02) -> Lock:
    """Lock an open file until it is closed.

    Args:
        fd: its descriptor.
        shared: others may hold a shared lock too.
        timeout: seconds to wait for another holder; None waits as long as it takes.
        pause: seconds between two tries.

    Returns:
        HELD; BUSY where another holds it; UNSUPPORTED where the file system, or this system, has no locks.

    Raises:
        OSError: for every other reason.
    """
    if fcntl is None:
        return Lock.UNSUPPORTED
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return Lock.HELD
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                return Lock.BUSY
            time.sleep(pause)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return Lock.UNSUPPORTED
            raise
