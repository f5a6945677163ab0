"""Locking files, also where a file system has no locks."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from kdhpc.files.storage_errors import patiently, storage_error
from kdhpc.files.writing import make_folder


class FileLock:
    """A lock on a file, which lives as long as a process has its descriptor: this one, or a child that it was given to.

    Use as a context, which gives it back.
    """

    def __init__(self, descriptor: int, problem: str | None) -> None:
        self._descriptor = descriptor
        self.problem = problem
        """Why the file system locks nothing; None: it does, as far as can be told from here."""

    @classmethod
    def take(cls, path: Path, *, wait: bool = False, private: bool = False) -> "FileLock | None":
        """Lock a file, which is made where it is missing; never what a link names.

        Args:
            path: The file.
            wait: Until nobody else has it.
            private: Take it from all other users, who could hold it for ever: to open it for reading is enough.

        Returns:
            None: another process has it. A file system without locks gives a lock with a :attr:`problem`.

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
        """Its descriptor, for a child process that is to hold the lock, too."""
        return self._descriptor

    def close(self) -> None:
        """Give it back, as far as this process has it."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
