"""Atomic writing: a file is written under a temporary name, flushed to the disk, read back, and then renamed."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kdhpc.errors import StorageError
from kdhpc.files.storage_errors import patiently, storage_error

_BLOCK_BYTES = 1 << 22


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o666, may_replace: Callable[[], bool] = lambda: True) -> Iterator[Path]:
    """Write a file atomically, by code that takes a path: ``with replacing(path) as temporary: save(temporary)``.

    The temporary file lies beside ``path``, under a name that nobody can guess. It exists already and is empty. If the
    block succeeds, it is flushed to the disk and renamed to ``path``; if not, it is removed. Missing folders are made.

    Args:
        path: The file.
        mode: Permissions of the new file, before the umask. Group and others never get the permission to write: the
            file is meant to be replaced, not to be changed.
        may_replace: Called when everything is on the disk, which may take minutes. False: the old file stays.

    Raises:
        StorageError: the file system refuses. The old file is still there.
    """
    with _replacing(path, mode, may_replace) as (temporary, file):
        file.close()
        yield temporary


def write_whole(
    path: Path,
    *parts: bytes | memoryview | str,
    mode: int = 0o666,
    may_replace: Callable[[], bool] = lambda: True,
    durable: bool = True,
) -> None:
    """Write a file atomically, by its content.

    Args:
        path: The file. Missing folders are made.
        parts: The content, in pieces that are written one after the other. Text is encoded as UTF-8.
        mode: As for :func:`replacing`.
        may_replace: As for :func:`replacing`.
        durable: Flush the file to the disk and read it back. False saves time for many files in a temporary folder.

    Raises:
        StorageError: the file system refuses, or what is read back is not what was written.
    """
    contents = [memoryview(part.encode() if isinstance(part, str) else part).cast("B") for part in parts]
    with _replacing(path, mode, may_replace, durable=durable) as (temporary, file):
        for content in contents:
            file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
        file.close()
        if durable and not _holds(temporary, contents):
            raise OSError(errno.EIO, "what was written is not what is read back")


def move(path: Path, target: Path) -> None:
    """Rename a file or a folder, durably. The new path must be on the same file system and must not be a folder yet.

    Raises:
        StorageError: the file system refuses.
    """
    try:
        path.rename(target)
        for folder in {path.parent, target.parent}:
            _flush(folder, os.O_RDONLY)
    except OSError as exc:
        raise StorageError(f"{path} cannot be renamed to {target}: {exc.strerror or exc}") from exc


def create_alone(path: Path, content: str) -> bool:
    """Create a file if it does not exist. Of several processes, on any machines, exactly one gets True.

    This is atomic on NFS and Lustre as well, and needs no locks.

    Returns:
        False: the file exists already, even if this machine does not see it yet.

    Raises:
        StorageError: the file system refuses, or what is read back is not what was written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    except OSError as exc:
        raise storage_error(exc, path, "written") from exc
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _flush(path.parent, os.O_RDONLY)
        if patiently(lambda: path.read_text(encoding="utf-8")) != content:
            raise OSError(errno.EIO, "what was written is not what is read back")
    except OSError as exc:
        with contextlib.suppress(OSError):
            path.unlink()
        raise storage_error(exc, path, "written") from exc
    return True


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        StorageError: a file is in the way.
        OSError: the file system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise StorageError(f"{path} cannot be made: it, or a part of its path, is a file and no folder") from exc


@contextlib.contextmanager
def _replacing(
    path: Path, mode: int, may_replace: Callable[[], bool], *, durable: bool = True
) -> Iterator[tuple[Path, BinaryIO]]:
    """As :func:`replacing`, and the temporary file is open for writing. The block has to close it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        make_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode & ~0o022), "wb") as file:
            yield temporary, file
        if durable:
            _flush(temporary, os.O_RDWR)
        if may_replace():
            temporary.replace(path)
            if durable:
                _flush(path.parent, os.O_RDONLY)
    except OSError as exc:
        raise storage_error(exc, path, "written") from exc
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _holds(path: Path, contents: list[memoryview]) -> bool:
    """Whether a file has exactly this content."""
    with path.open("rb") as file:
        for content in contents:
            for start in range(0, len(content), _BLOCK_BYTES):
                block = content[start : start + _BLOCK_BYTES]
                if file.read(len(block)) != block:
                    return False
        return not file.read(1)


def _flush(path: Path, how: int) -> None:
    """Flush to the disk: the content of a file, or the entries of a folder."""
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some file systems cannot flush a folder.
        if how != os.O_RDONLY or exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
