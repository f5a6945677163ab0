"""Reading files of others: what the file system says never looks like a fault of the file.

Libraries that decode images or unpack archives take any ``OSError`` for a damaged file, and some hide it in an error of
their own. So a failure of the disk is tried again below them, and then comes through as a ``StorageError``, which none
of them catches. Only regular files are opened: a named pipe would wait for ever, a device may do anything.
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
"""Errors of a system that has no room for one more open file, which say nothing about that file."""


def read_from(path: Path, work: Callable[[], T]) -> T:
    """Do work that reads a file or a folder, and again for some seconds while it fails by what may pass.

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
    """What a file or a folder is, links followed; none where nothing, or a link to itself, has that name.

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
    """Whether there is a folder of that name, links followed.

    Raises:
        StorageError: the file system refuses to tell.
    """
    found = look_at(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def names_in(folder: Path) -> list[str]:
    """The names of all that is in a folder, sorted.

    Raises:
        StorageError: the file system refuses to list it.
        OSError: there is no such folder.
    """
    return sorted(read_from(folder, lambda: [path.name for path in folder.iterdir()]))


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, links followed, sorted.

    Raises:
        StorageError: the file system refuses to list it.
        OSError: there is no such folder.
    """
    return sorted(entry.name for entry, is_one in entries_in(folder) if is_one)


def open_file(path: Path) -> io.BufferedReader:
    """Open a file whose reading raises ``StorageError`` where the file system refuses.

    Raises:
        StorageError: the file system refuses to open it.
        UnfitFileError: it is a folder, a named pipe, a socket or a device.
        OSError: there is no such file.
    """
    return io.BufferedReader(read_from(path, lambda: _File(path)))


def read_file(path: Path, *, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        limit: The bytes that it may have.

    Raises:
        StorageError: the file system refuses to read it.
        UnfitFileError: it is no regular file, or a longer one.
        OSError: there is no such file.
    """
    with open_file(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > limit:
            raise UnfitFileError(f"it has {length:,} bytes, allowed are {limit:,}")
        # Some files of the system have no length, and no end.
        content = file.read(length + 1)
    if len(content) > length:
        raise UnfitFileError(f"it has more than the {length:,} bytes that it says")
    return content


def entries_in(folder: Path) -> "list[tuple[os.DirEntry[str], bool]]":
    """All that is in a folder, in the order of the names, each with whether it is a folder, links followed.

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
        # A link that leads back to itself is none.
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
