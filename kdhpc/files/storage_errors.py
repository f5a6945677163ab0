"""Errors of file systems: which of them are temporary, which are not the fault of the data, and how to say them.

Shared file systems report a full quota only when a file is closed. They fail for a moment and then work again, keep a
hidden file for whatever a process still has open, and change inode numbers. Every file that kdhpc writes, and then
reports as done, is written by the modules of this folder.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kdhpc.errors import StorageError

T = TypeVar("T")

PASSING = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY),
        *(errno.ENOTCONN, errno.EREMOTEIO, errno.ESHUTDOWN, errno.EHOSTDOWN),
    }
)
"""Temporary errors: the same call may succeed a moment later."""
REFUSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EFBIG, errno.ENODEV, errno.ENXIO, errno.ENOLCK),
    }
)
"""Lasting errors: the file system is full, read-only or closed to this user, or it cannot do what was asked."""
_PAUSES_S = (0.2, 1.0, 3.0)


def is_of_storage(exc: BaseException) -> bool:
    """Whether the disk or the file system is at fault, and not the data that were to be written or read."""
    return isinstance(exc, StorageError) or (isinstance(exc, OSError) and exc.errno in PASSING | REFUSING)


def storage_error(exc: OSError, path: Path, what: str) -> StorageError:
    """Turn an error of the file system into one line.

    Args:
        exc: The error.
        path: The file that could not be used. The error itself may name none, as when a file is closed.
        what: What could not be done with the file: ``written``, ``read``, ``removed``.
    """
    return StorageError(f"{path} cannot be {what}: {_words(exc, path)}")


def patiently(work: Callable[[], T]) -> T:
    """Call a function, and call it again for about four seconds while it fails with a temporary error.

    Args:
        work: What to call. It must be harmless to call it twice, such as a function that only reads.

    Raises:
        OSError: the error is not temporary, or it stayed.
    """
    for pause_s in _PAUSES_S:
        try:
            return work()
        except OSError as exc:
            if exc.errno not in PASSING:
                raise
            time.sleep(pause_s)
    return work()


def _words(exc: OSError, path: Path) -> str:
    """The reason in an error of the file system, in words."""
    if exc.errno == errno.ELOOP:
        return "it is a link, which may lead anywhere, and is not followed: look at it, then remove it"
    said = exc.strerror or str(exc)
    if exc.errno == errno.ENOSPC:
        with contextlib.suppress(OSError, StopIteration):
            disk = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
            if disk.f_files and not disk.f_favail:
                return f"{said} (no inode is left for another file: `df -i`)"
    return said
