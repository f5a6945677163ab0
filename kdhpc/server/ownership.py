"""The start of a server: finding the one that runs, or claiming the folder for a new one."""

import contextlib
import logging
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.removing import remove
from kdhpc.processes import has_ended, process_start
from kdhpc.server.pid_file import serving_pid
from kdhpc.server.proof import Doubt, answer_of, doubt, is_ours, last_server
from kdhpc.server.record import (
    RUNNING,
    STARTING,
    STOPPED,
    STRAY,
    ServerRecord,
    claim,
    is_newest,
    lock_path,
    new_record,
    record_path,
    update,
)

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
# How long to wait if waiting is not likely to help: an answer may just have been lost.
_BRIEFLY_S = 1.0
# A server that takes connections may be recovering. And a shared file system may hide new files for half a minute.
_REACHED_S = _CLAIMED_S = 60.0


class NotCertainError(DatabaseError):
    """It is not certain that the last server of a folder has ended."""


@dataclass(frozen=True, kw_only=True)
class TakeOver:
    """A request to start a server although the last one was not stopped.

    The user, or Slurm, says that the last server's machine is down.
    """

    token: str | None = None
    """The token of the server to be replaced, so that a later one is not. None: whichever is the last one now."""


class FolderClaim:
    """A data folder that is claimed for a start. If the start fails, leaving the context frees the folder."""

    def __init__(self, folder: Path, record: ServerRecord, lock: FileLock | None, last_port: int | None) -> None:
        self._folder = folder
        self._written = record
        self.record = record
        """The record of this start."""
        self.lock = lock
        """The lock on the folder, which the server will hold, too. None: the folder was taken over
        from a server that may still hold it."""
        self.last_port = last_port
        """The port of the previous server; None: there was none."""

    def begin(self, pid: int, port: int) -> None:
        """Write down which process becomes the server.

        Raises:
            StorageError: the file system refuses.
            DatabaseError: another start has claimed the folder meanwhile.
        """
        started = process_start(pid) or 0
        self.record = replace(self.record, state=RUNNING, pid=pid, process_start=started, port=port)
        update(self._folder, self.record)
        self._written = self.record
        if not is_newest(self._folder, self.record):
            raise DatabaseError(f"{self._folder} was taken over by a later start of PostgreSQL: this one gives up")

    def __enter__(self) -> "FolderClaim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self.record
        never_ran = self._written.state == STARTING
        if error is not None and (never_ran or has_ended(record.pid, record.space, record.process_start)):
            try:
                update(self._folder, replace(record, state=STOPPED))
            except StorageError:
                # The disk may be full. If a process ran, the next start sees by itself that it has ended.
                if never_ran:
                    remove(record_path(self._folder, record.number))
        if self.lock is not None:
            self.lock.close()


def find_or_claim(
    folder: Path, *, listen: str, job: str | None, take_over: TakeOver | None, deadline: float
) -> ServerRecord | FolderClaim:
    """Return the record of the running server, or claim the folder for a new one.

    Args:
        folder: The server's folder, resolved.
        listen: As in :class:`kdhpc.server.control.ServerOptions`.
        job: The batch job that a new server is part of; None: it is not part of one.
        take_over: Claim the folder even if it is not certain that the last server has ended.
        deadline: Until when to wait for certainty, on the clock of ``time.monotonic``.

    Raises:
        NotCertainError: it is not certain that the last server has ended.
        StorageError: the file system refuses.
    """
    began, taken = time.monotonic(), 0
    given_up = _given_up(folder, take_over)
    while True:
        server = last_server(folder, at_least=taken)
        answer = None if server is None else answer_of(folder, server)
        if server is not None and answer is not None and is_ours(folder, server, answer):
            return recorded(folder, server)
        lock = FileLock.take(lock_path(folder), private=True)
        with contextlib.ExitStack() as stack:
            if lock is not None:
                stack.enter_context(lock)
            why = doubt(folder, server, lock)
            if why is None or (not why.is_final and server is not None and server == given_up):
                taken = 1 + (server.number if server else 0)
                host = socket.gethostname() if listen == "all" else listen
                record = new_record(folder, taken, host=host, job=job, lock=lock)
                if claim(folder, record):
                    stack.pop_all()
                    _tell_of_locks(folder, lock)
                    return FolderClaim(folder, record, lock, server.port if server else None)
                why = Doubt(reason=f"another start of PostgreSQL has just claimed {folder}", patience_s=_CLAIMED_S)
        is_reached = answer is not None and answer.reached and answer.token is None
        patience_s = max(why.patience_s, _REACHED_S if is_reached else _BRIEFLY_S)
        if time.monotonic() > min(deadline, began + patience_s):
            raise NotCertainError(why.reason)
        time.sleep(_POLL_S)


def recorded(folder: Path, server: ServerRecord) -> ServerRecord:
    """The record of a running server. One that has none, such as an older kdhpc's, is given one.

    Raises:
        StorageError: the file system refuses.
    """
    if server.state != STRAY:
        return server
    pid = serving_pid(folder)
    with contextlib.ExitStack() as stack:
        lock = FileLock.take(lock_path(folder), private=True)
        if lock is not None:
            stack.enter_context(lock)
        record = new_record(folder, server.number + 1, host=server.host, job=server.job, lock=None)
    record = replace(record, state=RUNNING, token=answer_of(folder, server).token or "", port=server.port)
    if pid is None:
        record = replace(record, node=server.node, space="", pid=server.pid, process_start=0)
    else:
        record = replace(record, pid=pid, process_start=process_start(pid) or 0)
    return record if claim(folder, record) else server


def _given_up(folder: Path, take_over: TakeOver | None) -> ServerRecord | None:
    """The last server, if a new one may be started although this one may still run; None: no new one may be."""
    server = None if take_over is None else last_server(folder)
    if server is None or take_over is None or take_over.token not in (None, server.token):
        return None
    return server


def _tell_of_locks(folder: Path, lock: FileLock | None) -> None:
    if lock is not None and lock.problem is not None:
        _LOG.warning(
            "%s has no locks (%s): that one server alone works there rests on its record, and after the loss of its "
            "machine `kdhpc db start --take-over` is needed",
            *(folder, lock.problem),
        )
