"""Folders that nobody else may write to, since what lies in them is executed, or holds a password.

The umask of many sites, and the group's bit on their project folders, let a whole group write to what its members make.
These folders are their owner's alone whatever the umask, and another user's folder of the same name is not used.
"""

import contextlib
import errno
import functools
import grp
import logging
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdhpc.errors import StorageError
from kdhpc.files.storage_errors import is_of_storage, patiently, storage_error

_LOG = logging.getLogger(__name__)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path, *, group: int | None = None) -> Path:
    """A folder that only this user may enter. It is made if it is missing; if it is open to others, it is closed.

    Args:
        path: The folder. Those above it that are missing are made, too, such that only this user may write to them.
        group: A group whose members may pass through it to folders of theirs, but not list it; None: no group may.

    Raises:
        StorageError: the file system refuses, or the folder is another user's.
    """
    if group is None:
        return _own_folder(path, 0o700)
    _own_folder(path, 0o710)
    with contextlib.suppress(OSError):
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
        if not path.stat().st_mode & stat.S_IXGRP:
            path.chmod(0o710)
    return path


def own_folder(path: Path) -> Path:
    """As :func:`private_folder`, but others may read it."""
    return _own_folder(path, 0o755)


def refuse_strangers(path: Path) -> None:
    """Refuse a folder, or a link to one, that is another user's.

    Raises:
        StorageError: it is not, or cannot be looked at.
        FileNotFoundError: there is none.
    """
    for owner in {_owner(path, follow=False), _owner(path, follow=True)} - {os.geteuid()}:
        if not _is_shown_as_mine(path, owner):
            raise StorageError(
                f"{path} belongs to {user_name(owner)} and not to {user_name(os.geteuid())}, who runs this, and is not "
                "used: name a folder of your own in KDHPC_RUNS"
            )


def refuse_planted(folder: Path, *, exclude: tuple[int, ...] = ()) -> None:
    """Refuse a folder into which another user has put a file or a link while it was open to others.

    Args:
        folder: This user's folder.
        exclude: Users whose folders (but not files) may be in it.

    Raises:
        StorageError: somebody has; the message names it.
    """
    try:
        allowed = {0, os.geteuid(), folder.stat().st_uid}
        paths = patiently(lambda: list(folder.iterdir()))
    except OSError as exc:
        raise storage_error(exc, folder, "read") from exc
    for path in paths:
        # What vanishes meanwhile was somebody's temporary file.
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if found.st_uid not in allowed and not (stat.S_ISDIR(found.st_mode) and found.st_uid in exclude):
                raise StorageError(
                    f"{path} was put there by {user_name(found.st_uid)}, and is not used: look at it, then remove it"
                )


def append_to(path: Path) -> int:
    """Open a file of this user for appending; it is made if it is missing. Links are not followed.

    Raises:
        StorageError: the file system refuses, or there is something else of that name.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    except OSError as exc:
        raise storage_error(exc, path, "written") from exc
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        what = "no regular file" if found.st_nlink == 1 else "another name of a file that lies elsewhere"
        raise StorageError(f"{path} cannot be written: it is {what}: look at it, then remove it")
    return descriptor


def user_name(uid: int) -> str:
    """A user in words, by name and number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    except KeyError:
        return f"user {uid}"


def _own_folder(path: Path, mode: int) -> Path:
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(mode=0o755, exist_ok=True)
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            if not path.is_dir():
                raise
        refuse_strangers(path)
        open_to_others = stat.S_IMODE(path.stat().st_mode) & (0o777 & ~mode)
        if open_to_others:
            _close(path, mode)
    except (FileExistsError, NotADirectoryError) as exc:
        raise StorageError(f"{path} cannot be made: it, or a part of its path, is a file and no folder") from exc
    except OSError as exc:
        if not is_of_storage(exc):
            raise
        raise storage_error(exc, path, "made") from exc
    if above := list(_writable_above(path)):
        names = " ".join(map(str, above))
        _warn_about(
            f"{names} can be written to by others, who could exchange what is below, and act as you: `chmod go-w "
            f"{names}`, or set KDHPC_RUNS to a folder below one that only you may write to"
        )
    return path


def _close(path: Path, mode: int) -> None:
    """Close a folder to all others; warn if the file system does not allow that."""
    found = stat.S_IMODE(path.stat().st_mode)
    try:
        # What it has beyond (the group's bit) stays.
        path.chmod(found & (mode | 0o7000))
        problem = ""
    except OSError as exc:
        problem = f" ({exc.strerror})"
    left = stat.S_IMODE(path.stat().st_mode)
    if left & 0o777 & ~mode:
        _warn_about(
            f"{path} is open to others (mode {left:o}), and its file system does not change that{problem}: who may "
            "write there can act as you: set KDHPC_RUNS to a folder on a disk where `chmod 700` works"
        )


def _owner(path: Path, *, follow: bool) -> int:
    try:
        return patiently(lambda: path.stat(follow_symlinks=follow)).st_uid
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise storage_error(exc, path, "read") from exc


def _is_shown_as_mine(path: Path, owner: int) -> bool:
    """Whether files that this user makes here are shown as that owner's: NFS shows root's as those of nobody."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            return os.fstat(file.fileno()).st_uid == owner
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False
        raise storage_error(exc, path, "written") from exc


def _writable_above(path: Path) -> Iterator[Path]:
    """The folders above one in which others could replace what is below; the nearest first."""
    for folder in path.resolve().parents:
        found = folder.stat()
        if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX and not _is_group_of_one(found):
            yield folder


def _is_group_of_one(found: os.stat_result) -> bool:
    """Whether only the group may write, and it is this user's own, as many systems give each user one."""
    if found.st_mode & stat.S_IWOTH:
        return False
    try:
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return group.gr_gid == me.pw_gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}


@functools.cache
def _warn_about(message: str) -> None:
    """Each message once a process."""
    _LOG.warning("%s", message)
