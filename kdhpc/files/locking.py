"""Locks on files. Where a file system has no locks, the lock says so instead of failing."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from kdhpc.files.storage_errors import patiently, storage_error
from kdhpc.files.writing import make_folder


class FileLock:
    """An exclusive lock on a file, held until every process that has its descriptor has closed it or has ended.

    That is this process, and any child that inherited the descriptor. As a context manager it is released at the end.
    """

    def __init__(self, descriptor: int, problem: str | None) -> None:
        self._descriptor = descriptor
        self.problem = problem
        """Why the file system did not lock the file; None: it did, as far as this machine can tell."""

    @classmethod
    def take(cls, path: Path, *, wait: bool = False, private: bool = False) -> "FileLock | None":
        """Lock a file, which is created if it is missing. Symbolic links are not followed.

        Args:
            path: The file.
            wait: Wait until no other process holds the lock.
            private: Remove the permissions of all other users. Whoever can open the file, if only for reading, can
                hold its lock for ever.

        Returns:
            None: another process holds the lock. On a file system without locks the result has a :attr:`problem`.

        Raises:
            StorageError: the file cannot be made or opened.
        """
        try:
            make_folder(path.parent)
            # For writing: NFS locks nothing else exclusively.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = patiently(lambda: os.open(path, flags, 0o600 if private else 0o666))
        except OSError as exc:
            raise storage_error(exc, path, "opened") from exc
        if private and os.fstat(descriptor).st_mode & 0o077:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                return None
            return cls(descriptor, exc.strerror or str(exc))
        return cls(descriptor, None)

    def fileno(self) -> int:
        """The file descriptor, for a child process that shall hold the lock as well."""
        return self._descriptor

    def close(self) -> None:
        """Release the lock, unless a child process holds it as well."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
