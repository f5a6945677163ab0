"""Writing files whole or not at all: under a temporary name, flushed, read back, then renamed."""

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
    """A temporary file beside ``path``: flushed to the disk and renamed to it where the block succeeds, else removed.

    It is there already, empty, under a name that nobody can guess. The folder is made where it is missing.

    Args:
        path: The file.
        mode: Permissions of a new file, lessened by the umask; others than its owner may never write to it, as it is
            replaced and not changed.
        may_replace: Asked when all is on the disk, which may take minutes: False leaves the old file.

    Raises:
        StorageError: the file system refuses; what had the name before is still there.
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
    """Write a file in one step: flushed, closed and read back under a temporary name, then renamed.

    Args:
        path: The file; its folder is made where it is missing.
        parts: Its content, one after the other; text as UTF-8.
        mode: As for :func:`replacing`.
        may_replace: As for :func:`replacing`.
        durable: False: it is neither flushed to the disk nor read back, as for many files in a temporary folder.

    Raises:
        StorageError: the file system refuses, or gives back something else than was written.
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
    """Give a file or a folder another name on the same disk, which no other folder has.

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
    """Make a file that was not there, and know that nobody else did: atomic on NFS and Lustre, with and without locks.

    Returns:
        False: it is there already, though this machine may not see it yet.

    Raises:
        StorageError: the file system refuses, or gives back something else than was written.
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
    """Make a folder, and those above it, where they are missing.

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
    """As :func:`replacing`, with the file open for writing, which the block closes."""
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
    """Whether a file has that content and nothing else."""
    with path.open("rb") as file:
        for content in contents:
            for start in range(0, len(content), _BLOCK_BYTES):
                block = content[start : start + _BLOCK_BYTES]
                if file.read(len(block)) != block:
                    return False
        return not file.read(1)


def _flush(path: Path, how: int) -> None:
    """Have it on the disk: a file's content, or the names in a folder."""
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some file systems cannot flush a folder.
        if how != os.O_RDONLY or exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
