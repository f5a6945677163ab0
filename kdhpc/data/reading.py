"""Reading a user's files through libraries, so that a failure of the disk is not taken for a damaged file.

Libraries that decode images or unpack archives take any ``OSError`` for a damaged file, and some hide it in an error of
their own. So the files that they are given try a temporary failure again, and then raise ``StorageError``, which is no
``OSError`` and which no library catches. Only regular files are opened: opening a named pipe would wait for ever, and
opening a device may have any effect.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kdhpc.files.reading import UnfitFileError, open_regular
from kdhpc.files.storage_errors import is_of_storage, patiently, storage_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

_NOTHING_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG))
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""Errors of a system that cannot open one more file. They say nothing about the file."""


def read_from(path: Path, work: Callable[[], T]) -> T:
    """Call a function that reads a file or a folder. A temporary failure is tried again for some seconds.

    Args:
        path: The file or folder, for messages.
        work: The function.

    Raises:
        StorageError: the file system refuses.
        OSError: another error, such as that there is no such file.
    """
    try:
        return patiently(work)
    except OSError as exc:
        if is_of_storage(exc) or exc.errno in _SHORTAGES:
            raise storage_error(exc, path, "read") from exc
        raise


def look_at(path: Path) -> os.stat_result | None:
    """``stat`` of a file or a folder, with links followed; None: there is none, or only a broken or circular link.

    Raises:
        StorageError: the file system refuses to tell.
    """
    try:
        return read_from(path, path.stat)
    except OSError as exc:
        if is_of_storage(exc) or exc.errno not in _NOTHING_THERE:
            raise
        return None


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, or a link to one.

    Raises:
        StorageError: the file system refuses to tell.
    """
    found = look_at(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def names_in(folder: Path) -> list[str]:
    """The names of all entries of a folder, sorted.

    Raises:
        StorageError: the file system refuses to list it.
        OSError: there is no such folder.
    """
    return sorted(read_from(folder, lambda: [path.name for path in folder.iterdir()]))


def folders_in(folder: Path) -> list[str]:
    """The names of the subfolders of a folder, and of links to folders, sorted.

    Raises:
        StorageError: the file system refuses to list it.
        OSError: there is no such folder.
    """
    return sorted(entry.name for entry, is_one in entries_in(folder) if is_one)


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file. Where the file system refuses to read it, reading raises ``StorageError``.

    Raises:
        StorageError: the file system refuses to open it.
        UnfitFileError: it is a folder, a named pipe, a socket or a device.
        OSError: there is no such file.
    """
    return io.BufferedReader(read_from(path, lambda: _File(path)))


def read_file(path: Path, *, limit: int) -> bytes:
    """Read a whole regular file.

    Args:
        path: The file.
        limit: Largest length that is accepted, in bytes.

    Raises:
        StorageError: the file system refuses to read it.
        UnfitFileError: it is no regular file, or it is longer.
        OSError: there is no such file.
    """
    with open_file(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > limit:
            raise UnfitFileError(f"it has {length:,} bytes, allowed are {limit:,}")
        # Some files of the system report a length of 0, and never end.
        content = file.read(length + 1)
    if len(content) > length:
        raise UnfitFileError(f"it has more than the {length:,} bytes that it says")
    return content


def entries_in(folder: Path) -> "list[tuple[os.DirEntry[str], bool]]":
    """The entries of a folder, ordered by name, each with whether it is a folder or a link to one.

    Raises:
        StorageError: the file system refuses to list it.
        OSError: there is no such folder.
    """

    def read() -> "list[tuple[os.DirEntry[str], bool]]":
        with os.scandir(folder) as entries:
            return sorted(((entry, _is_folder(entry)) for entry in entries), key=lambda pair: pair[0].name)

    return read_from(folder, read)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as exc:
        # A circular link is no folder.
        if is_of_storage(exc):
            raise
        return False


class _File(io.FileIO):
    """A file that is open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, opener=open_regular)
        self._path = path

    def readinto(self, buffer: "WriteableBuffer") -> int:
        read = super().readinto
        return read_from(self._path, lambda: read(buffer))

    def readall(self) -> bytes:
        return read_from(self._path, super().readall)
