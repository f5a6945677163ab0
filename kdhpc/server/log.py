"""PostgreSQL's log, and the reason in it for which a server did not start."""

import contextlib
import errno
import os
import re
from pathlib import Path

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.removing import remove
from kdhpc.files.writing import write_whole

_LIMIT_BYTES = 20_000_000
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \S+ \[\d+\] ")
_GRAVEST = ("PANIC: ", "FATAL: ", "ERROR: ", "error: ", "could not ", "annot fork")
_OF_THE_SYSTEM = tuple(
    os.strerror(number)
    for number in (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
        *(errno.EACCES, errno.EPERM, errno.EFBIG),
    )
)
# No reasons: what it answers to clients while it starts or ends, and what it notes about clients that went away.
_ASIDE = ("the database system is", "too many clients", "canceling authentication", "could not receive data")
_LEAST_BYTES = 1 << 20
_ROOM = "(make room for files: `df -h`, and `df -i` for their number)"
_PROCESSES = "(the limit of this user's or this job's processes: `ulimit -u`)"


def log_path(folder: Path) -> Path:
    """PostgreSQL's log."""
    return folder / "server.log"


def shorten_log(folder: Path) -> None:
    """Move a long log to ``server.log.old``, so that a new one is begun.

    Raises:
        OSError: the file system refuses.
    """
    log = log_path(folder)
    with contextlib.suppress(FileNotFoundError):
        if log.lstat().st_size > _LIMIT_BYTES:
            log.replace(log.with_suffix(".log.old"))


def reason_in(text: str) -> str:
    """Why a program of PostgreSQL's ended, in one line.

    Args:
        text: What it wrote.

    Returns:
        Its first error that the operating system caused; else its gravest error; else the last lines that it wrote.
        Empty: it wrote nothing.
    """
    lines = [" ".join(_PREFIX.sub("", line.strip()).split()) for line in text.splitlines() if line.strip()]
    grave = [
        index
        for index, line in enumerate(lines)
        if any(word in line for word in _GRAVEST) and not any(aside in line for aside in _ASIDE)
    ]
    first = next((index for index in grave if any(words in lines[index] for words in _OF_THE_SYSTEM)), None)
    before: list[str] = []
    if first is None:
        first = next((index for word in _GRAVEST for index in grave if word in lines[index]), None)
        # If a setting is wrong, the line before names the setting.
        before = lines[first - 1 : first] if first else []
    if first is None:
        return " | ".join(lines[-3:])
    more = [line for line in lines[first + 1 : first + 4] if line.startswith(("DETAIL:", "HINT:"))]
    return _with_advice(" | ".join((*before, lines[first], *more)))


def explained(folder: Path, text: str, *, else_: str = "it wrote nothing") -> str:
    """As :func:`reason_in`. If that is empty or says that the disk is full, the state of the disk is added.

    Args:
        folder: The server's folder.
        text: What a program of PostgreSQL's wrote.
        else_: Returned if there is no reason at all.
    """
    found = reason_in(text)
    full = _full(folder)
    if full and (not found or os.strerror(errno.ENOSPC) in found):
        return f"{found}: {full}" if found else full
    return found or else_


def cannot_start(program: str, exc: OSError) -> DatabaseError:
    """The error about a program that the operating system did not start."""
    return DatabaseError(f"{program} cannot be started: {_with_advice(exc.strerror or str(exc))}")


def _with_advice(reason: str) -> str:
    if os.strerror(errno.EAGAIN) in reason or "annot fork" in reason:
        return f"{reason} {_PROCESSES}"
    return f"{reason} {_ROOM}" if os.strerror(errno.ENOSPC) in reason else reason


def _full(folder: Path) -> str:
    """In words, how a folder's disk is full, or cannot be written to; empty: it has room."""
    try:
        disk = os.statvfs(folder)
        if disk.f_files and not disk.f_favail:
            return f"the disk of {folder} takes no more files (no inode is left: `df -i`)"
        if disk.f_bavail * disk.f_frsize < _LEAST_BYTES:
            return f"the disk of {folder} is full"
        probe = folder / "room"
        write_whole(probe, bytes(8192), mode=0o600)
        remove(probe)
    except (OSError, StorageError) as exc:
        return str(exc)
    return ""
