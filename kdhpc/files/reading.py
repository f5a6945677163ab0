"""Reading whole files, regular ones only. A temporary failure of the file system is tried again."""

import errno
import io
import os
import stat
from pathlib import Path

from kdhpc.files.storage_errors import is_of_storage, patiently, storage_error

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnfitFileError(OSError):
    """The path is no regular file (but a folder, a pipe, a device), or the file is too long for what it should hold."""

    def __init__(self, why: str, path: str | None = None) -> None:
        super().__init__(errno.EINVAL, why, path)

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: str, flags: int) -> int:
    """Open a regular file, and nothing else. For the argument ``opener`` of Python's ``open``.

    Opening a pipe would wait for ever, and opening a device may have any effect.

    Raises:
        UnfitFileError: the path is a folder, a pipe, a socket or a device.
        OSError: there is no such file, or the file system refuses.
    """
    # Checked before opening, because opening a device may have an effect; and after, because the path may lead to
    # another file by now.
    _check_regular(Path(path).stat(), path)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise UnfitFileError(f"it is {kind} and no regular file", path)


def read_whole(path: Path, *, first: int = -1) -> bytes:
    """Read the content of a file.

    Args:
        path: The file.
        first: Read at most this many bytes, from the beginning; -1: all.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file system refuses, and still does a few seconds later.
        OSError: the path is no regular file.
    """

    def read() -> bytes:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with io.FileIO(path, opener=open_regular) as file:
            return file.read(first) if first >= 0 else file.readall()

    try:
        return patiently(read)
    except OSError as exc:
        if is_of_storage(exc):
            raise storage_error(exc, path, "read") from exc
        raise
