"""What a file system says when it fails: what may pass, what is its own fault, and what that is in one line.

Shared file systems tell of a full quota only when a file is closed, fail for a moment and then work again, keep a
hidden file of what a process still has open, and change inode numbers. What kdhpc writes and calls done goes through
this room.
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
"""Errors of a file system that may be gone a moment later."""
REFUSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EFBIG, errno.ENODEV, errno.ENXIO, errno.ENOLCK),
    }
)
"""Errors of a file system that is full, read-only, closed to this user, or cannot do what was asked."""
_PAUSES_S = (0.2, 1.0, 3.0)


def is_of_storage(exc: BaseException) -> bool:
    """Whether an error is the disk's or the file system's, and says nothing about what was to be written or read."""
    return isinstance(exc, StorageError) or (isinstance(exc, OSError) and exc.errno in PASSING | REFUSING)


def storage_error(exc: OSError, path: Path, what: str) -> StorageError:
    """The error of a file system as one line.

    Args:
        exc: What it said.
        path: The file that is meant; it knows better than an error at close, which names none.
        what: ``written``, ``read``, ``removed``.
    """
    return StorageError(f"{path} cannot be {what}: {_words(exc, path)}")


def patiently(work: Callable[[], T]) -> T:
    """Do work that reads, and again for some seconds while it fails by what may pass.

    Raises:
        OSError: another error, or one that did not pass.
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
    """What an error of the file system means."""
    if exc.errno == errno.ELOOP:
        return "it is a link, which may lead anywhere, and is not followed: look at it, then remove it"
    said = exc.strerror or str(exc)
    if exc.errno == errno.ENOSPC:
        with contextlib.suppress(OSError, StopIteration):
            disk = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
            if disk.f_files and not disk.f_favail:
                return f"{said} (no inode is left for another file: `df -i`)"
    return said
