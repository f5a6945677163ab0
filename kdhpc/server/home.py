"""The folder of the embedded server: private, because the password lies in it and PostgreSQL writes to it."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kdhpc.errors import DatabaseAwayError, DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.folders import private_folder, refuse_planted, refuse_strangers, user_name
from kdhpc.processes import lock_holder, process_owner
from kdhpc.server.endpoint import not_for_this_user
from kdhpc.server.postgres import nobody

# How long to wait for another start or stop. Not for ever: a file system may keep the lock of a machine that is down.
_ALONE_S = 60.0


def checked_home(folder: Path) -> Path:
    """A server's folder, links resolved, if it is this user's and nobody else has put anything into it.

    A folder that is not there passes.

    Raises:
        DatabaseAwayError: the file system does not tell, which may pass.
        DatabaseError: it is another user's, or holds something of another user's.
    """
    try:
        refuse_strangers(folder)
        refuse_planted(folder, exclude=_accounts())
    except FileNotFoundError:
        pass
    except StorageError as exc:
        if isinstance(exc.__cause__, PermissionError):
            raise DatabaseError(not_for_this_user(folder)) from exc
        # An error of the file system may pass; the wrong owner of a folder does not.
        raise (DatabaseAwayError if exc.__cause__ is not None else DatabaseError)(str(exc)) from exc
    return folder.resolve()


def made_home(folder: Path) -> Path:
    """A server's folder, links resolved. It is made if it is missing, and closed to all other users.

    Raises:
        StorageError: the file system refuses, or it is another user's, or holds something of another user's.
    """
    # PostgreSQL does not run as root: the account that it runs as instead must be able to pass through the folder.
    private_folder(folder, group=nobody()[1] if os.geteuid() == 0 else None)
    refuse_planted(folder, exclude=_accounts())
    return folder.resolve()


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """One start or stop at a time, if the file system has locks.

    If it has none, starts may run at the same time, and the one that claims the folder wins
    (:func:`kdhpc.server.record.claim`).

    Raises:
        DatabaseError: another process still holds the lock after a minute.
        StorageError: the folder cannot be written to.
    """
    path, began = folder / "lock", time.monotonic()
    while (lock := FileLock.take(path, private=True)) is None:
        pid = lock_holder(path)
        owner = None if pid is None else process_owner(pid)
        if owner is not None and owner not in (0, os.geteuid()):
            raise DatabaseError(
                f"{path} is held by process {pid} of {user_name(owner)}, who has no business there: delete that file; "
                "it is made anew, for you alone"
            )
        if time.monotonic() > began + _ALONE_S:
            who = "another process" if pid is None else f"process {pid}"
            raise DatabaseError(
                f"{who} starts or stops the database, and holds {path}: try again; if it was on a machine that is "
                "down for certain, delete that file"
            )
        time.sleep(0.1)
    with lock:
        yield


def _accounts() -> tuple[int, ...]:
    """Other users who may own what is in the folder: PostgreSQL's account, if root starts it."""
    return (nobody()[0],) if os.geteuid() == 0 else ()
