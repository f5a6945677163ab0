"""Reading regular files whole, and again where a failure may pass."""

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
    """Something that is no regular file, or one that is too long to be what it should be."""

    def __init__(self, why: str, path: str | None = None) -> None:
        super().__init__(errno.EINVAL, why, path)

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: str, flags: int) -> int:
    """An opener, as ``open`` takes it, of regular files alone: a pipe would wait for ever, a device may do anything.

    Raises:
        UnfitFileError: it is something else.
        OSError: there is no such file, it is a folder, or the file system refuses.
    """
    # Asked before it is opened, because opening a device may do something; and after, because it may be another by now.
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
    """The content of a file.

    Args:
        path: The file.
        first: So many bytes of it at most; -1: all.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the file system refuses, also a few seconds later.
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
