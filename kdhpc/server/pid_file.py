"""PostgreSQL's own lock file, ``data/postmaster.pid``: it names the server process that uses the data folder."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from kdhpc.files.reading import read_whole
from kdhpc.files.removing import remove
from kdhpc.processes import process_start

NOBODYS_PID = 2**30
"""A process id that no process can have: Linux gives numbers below 2**22."""


class WrittenPid(NamedTuple):
    """What the file says; zeros: it is incomplete, as a crash of its machine leaves it."""

    pid: int
    port: int


def pid_path(folder: Path) -> Path:
    """The file, in a server's folder."""
    return folder / "data" / "postmaster.pid"


def written_pid(folder: Path) -> WrittenPid | None:
    """What the file says; None: there is no such file.

    Raises:
        StorageError: the file system refuses to read it.
    """
    try:
        lines = read_whole(pid_path(folder)).decode(errors="replace").splitlines()
        return WrittenPid(pid=int(lines[0]), port=int(lines[3]))
    except FileNotFoundError:
        return None
    except (ValueError, IndexError):
        return WrittenPid(pid=0, port=0)


def serving_pid(folder: Path) -> int | None:
    """The process id in the file, if a process that can be seen from here has it and works on this data folder."""
    written = written_pid(folder)
    if written is None or written.pid <= 0 or process_start(written.pid) is None:
        return None
    process, data = Path(f"/proc/{written.pid}"), folder / "data"
    try:
        works_here = (process / "cwd").samefile(data)
    except OSError:
        # In many containers not even root may look there.
        works_here = False
    with contextlib.suppress(OSError):
        works_here = works_here or os.fsencode(data) in (process / "cmdline").read_bytes().split(b"\0")
    return written.pid if works_here else None


def forget_pid(folder: Path) -> None:
    """Make PostgreSQL accept that the last server is gone. To be called only if that server has ended for certain.

    PostgreSQL takes any process that has the file's process id for the old server: another program that has the id now,
    or the old server as a zombie. So the id is replaced by one that no process can have. Then PostgreSQL goes by the
    rest of the file: it starts unless the old server's children still hold the shared memory.
    """
    written = written_pid(folder)
    if written is None or serving_pid(folder) is not None:
        return
    path = pid_path(folder)
    if written.pid == 0:
        # PostgreSQL would not start with an incomplete file, and nothing in it is of use.
        remove(path)
        return
    with contextlib.suppress(OSError):
        rest = path.read_text(encoding="utf-8").partition("\n")[2]
        # Written in place, not renamed: the file's owner must stay the server's account.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "w", encoding="utf-8") as file:
            file.write(f"{NOBODYS_PID}\n{rest}")
