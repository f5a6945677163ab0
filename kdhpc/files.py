"""Files on disks that fail: written whole or not at all, read again where a failure may pass, locked, removed.

Shared file systems tell of a full quota only when a file is closed, fail for a moment and then work again, keep a
hidden file of what a process still has open, and change inode numbers. What kdhpc writes and calls done goes through
here.
"""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

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
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_HIDDEN = (".nfs", ".fuse_hidden")
_BLOCK_BYTES = 1 << 22
_MAX_DEPTH = 64
"""Of JSON; documents of kdhpc's own have less than ten levels."""


class UnfitFileError(OSError):
    """Something that is no regular file, or one that is too long to be what it should be."""

    def __init__(self, why: str, path: str | None = None) -> None:
        super().__init__(errno.EINVAL, why, path)

    def __str__(self) -> str:
        return str(self.strerror)


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
    path: Path, *parts: bytes | memoryview | str, mode: int = 0o666, may_replace: Callable[[], bool] = lambda: True
) -> None:
    """Write a file in one step: flushed, closed and read back under a temporary name, then renamed.

    Args:
        path: The file; its folder is made where it is missing.
        parts: Its content, one after the other; text as UTF-8.
        mode: As for :func:`replacing`.
        may_replace: As for :func:`replacing`.

    Raises:
        StorageError: the file system refuses, or gives back something else than was written.
    """
    contents = [memoryview(part.encode() if isinstance(part, str) else part).cast("B") for part in parts]
    with _replacing(path, mode, may_replace) as (temporary, file):
        for content in contents:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        file.close()
        if not _holds(temporary, contents):
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


def remove(path: Path) -> bool:
    """Remove a file that nobody needs any more; False: the file system refuses, and it stays."""
    try:
        patiently(lambda: path.unlink(missing_ok=True))
    except OSError:
        return False
    return True


def remove_tree(path: Path) -> bool:
    """Remove a folder and all that is in it, as far as that goes.

    By names alone: a file system may give a file another inode number each time that it is asked.

    Returns:
        False: something is left, such as the hidden file of what a process still has open.
    """
    try:
        with os.scandir(path) as entries:
            found = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:
        return True
    except OSError:
        return False
    gone = [remove_tree(entry) if is_folder else remove(entry) for entry, is_folder in found if not _is_hidden(entry)]
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return all(gone)


class FileLock:
    """A lock on a file, which lives as long as a process has its descriptor: this one, or a child that it was given to.

    Use as a context, which gives it back.
    """

    def __init__(self, descriptor: int, problem: str | None) -> None:
        self._descriptor = descriptor
        self.problem = problem
        """Why the file system locks nothing; none: it does, as far as can be told from here."""

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
            _make_folder(path.parent)
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


def strict_json(document: object, *, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is none (nan, infinite) is ``null``."""
    return json.dumps(_without_nan(document), indent=indent, allow_nan=False)


def parse_json(text: str | bytes) -> object:
    """The document in a text.

    Raises:
        ValueError: it is no JSON, or has NaN or Infinity, which are none, or is nested deeper than anything that means
            something.
    """
    try:
        document: object = json.loads(text, parse_constant=_refuse)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc
    # Python reads what it can then neither compare nor write down.
    level = [document]
    for _ in range(_MAX_DEPTH):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return document
    raise ValueError("it is nested too deep")


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _replacing(path: Path, mode: int, may_replace: Callable[[], bool]) -> Iterator[tuple[Path, BinaryIO]]:
    """As :func:`replacing`, with the file open for writing, which the block closes."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _make_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode & ~0o022), "wb") as file:
            yield temporary, file
        _flush(temporary, os.O_RDWR)
        if may_replace():
            temporary.replace(path)
            _flush(path.parent, os.O_RDONLY)
    except OSError as exc:
        raise storage_error(exc, path, "written") from exc
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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


def _holds(path: Path, contents: list[memoryview]) -> bool:
    """Whether a file has that content and nothing else."""
    with path.open("rb") as file:
        for content in contents:
            for start in range(0, len(content), _BLOCK_BYTES):
                block = content[start : start + _BLOCK_BYTES]
                if file.read(len(block)) != block:
                    return False
        return not file.read(1)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise StorageError(f"{path} cannot be made: it, or a part of its path, is a file and no folder") from exc


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


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(_HIDDEN)
