"""Taking the embedded server over from another machine, where it may still run.

Slurm calls a node dead that it cannot reach, and starts the node's jobs elsewhere. If the node is only cut off, the
server there still writes, and two servers on one data folder destroy it. But PostgreSQL ends itself when its lock file
is gone. So that file is removed: a server that can still do harm to the data folder also sees that the file is gone.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdhpc.errors import DatabaseError
from kdhpc.files.locking import FileLock
from kdhpc.files.storage_errors import storage_error
from kdhpc.server.control import ServerOptions, Started, running, start, unstopped
from kdhpc.server.ownership import TakeOver
from kdhpc.server.pid_file import pid_path
from kdhpc.server.record import ServerRecord

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class TakeoverTimeouts:
    """How long a take-over waits."""

    probe_s: float = 30.0
    """How long a server is asked again and again before it counts as gone."""
    lock_file_s: float = 150.0
    """How long a server may take to end after its lock file was removed. PostgreSQL looks for the file when a minute
    has passed since it last did (``RecheckDataDirLockFile``), and may sleep for another minute before it notices."""


def take_over(
    folder: Path,
    options: ServerOptions,
    gone: ServerRecord,
    timeouts: TakeoverTimeouts,
    should_stop: Callable[[], bool],
) -> Started:
    """Start a server here in place of one on another machine whose job has ended, once that server surely has, too.

    Args:
        folder: The server's folder.
        options: As for :func:`kdhpc.server.control.start`.
        gone: The server that does not answer.
        timeouts: How long to wait.
        should_stop: Asked while waiting.

    Raises:
        DatabaseError: another launcher does this now, or did it; the server answers after all; or this process is to
            stop.
        StorageError: the lock file cannot be removed.
    """
    with _alone(folder):
        _LOG.warning(
            "PostgreSQL on %s does not answer, and job %s, which ran it, has ended: asking it for another %.0f s "
            "before it is taken over, as %s may only be cut off",
            *(gone.node, gone.job, timeouts.probe_s, gone.node),
        )
        for _ in _moments(timeouts.probe_s, should_stop):
            _see_that_it_is_gone(folder, gone)
        _remove_pid_file(folder)
        _LOG.warning(
            "removed PostgreSQL's lock file; waiting %.0f s: if it still runs on %s, it notices and ends before two "
            "servers write the same data",
            *(timeouts.lock_file_s, gone.node),
        )
        for _ in _moments(timeouts.lock_file_s, should_stop):
            pass
        _see_that_it_is_gone(folder, gone)
        # If another launcher starts a server just now, that one has another token, and is not replaced.
        return start(folder, options, take_over=TakeOver(token=gone.token))


def refuse_beside_take_over(folder: Path) -> None:
    """Refuse to start a server here while another launcher takes the last one over, as it would not notice that.

    Raises:
        DatabaseError: another launcher does.
    """
    with _alone(folder):
        pass


def _see_that_it_is_gone(folder: Path, gone: ServerRecord) -> None:
    if unstopped(folder) != gone or running(folder):
        raise DatabaseError("PostgreSQL is not taken over: it runs again")


def _remove_pid_file(folder: Path) -> None:
    try:
        pid_path(folder).unlink(missing_ok=True)
    except OSError as exc:
        raise storage_error(exc, pid_path(folder), "removed") from exc


def _moments(duration_s: float, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Yield every few seconds, until the time is over.

    Raises:
        DatabaseError: this process is to stop.
    """
    until = time.monotonic() + duration_s
    while (left_s := until - time.monotonic()) > 0:
        if should_stop():
            raise DatabaseError("PostgreSQL is not taken over: this process is to stop")
        yield
        time.sleep(min(left_s, _POLL_S))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One take-over at a time, where the file system has locks; elsewhere, the first to claim the folder starts.

    Raises:
        DatabaseError: another launcher takes it over.
    """
    lock = FileLock.take(folder / "take-over.lock", private=True)
    if lock is None:
        raise DatabaseError("PostgreSQL is away, and another launching job takes it over")
    with lock:
        if lock.problem is not None:
            # Of two that do so at once, one claims the folder.
            _LOG.info(
                "%s has no locks (%s): whether others take the database over, too, is not seen", folder, lock.problem
            )
        yield
