"""Whether the last server of a folder lives, has ended for certain, or neither can be known from here.

A server lives that answers with the token of its start and works in this folder. One that does not answer has ended if

- its record says so: it was stopped; or
- its process has ended, where process ids mean here what they meant to it; or
- its folder is on a disk that only one machine mounts, and that machine was rebooted since; or
- nobody holds the lock that it and its children hold as long as they live, and this process would see that lock: the
  server was started by this kernel, through the same mount.

Host names, bare process ids, and locks of a shared file system prove nothing. As long as the end of a server is not
proven, no other one is started on its folder, and it is not declared stopped.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from kdhpc.errors import DatabaseAwayError, DatabaseError
from kdhpc.files.locking import FileLock
from kdhpc.folders import user_name
from kdhpc.processes import has_ended, lock_holder, process_owner, process_start
from kdhpc.server.endpoint import Endpoint, is_loopback, read_endpoint
from kdhpc.server.log import log_path
from kdhpc.server.mounts import file_system, is_local
from kdhpc.server.pid_file import NOBODYS_PID, pid_path, serving_pid, written_pid
from kdhpc.server.postgres import nobody
from kdhpc.server.process import Answer, ask
from kdhpc.server.record import (
    RUNNING,
    STARTING,
    STOPPED,
    STRAY,
    UNREADABLE,
    ServerRecord,
    known_pids,
    lock_path,
    newest_record,
    unknown_record,
)

_STARTING_S = 60.0
_ENDING_S = 10.0
_TAKE_OVER = "`kdhpc db start --take-over` (for a cluster with --listen all)"


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Why a folder's last server may still be running, or may be again soon."""

    reason: str
    """In words, with what to do."""
    patience_s: float = 0.0
    """How long it is worth waiting: something is just starting, ending or recovering."""
    is_final: bool = False
    """Something runs for certain, so that even a take-over is refused."""


def last_server(folder: Path, *, at_least: int = 0) -> ServerRecord | None:
    """The record of the last server; None: there was none. A server without a record gets one of state ``stray``.

    Args:
        folder: The server's folder, resolved.
        at_least: As for :func:`kdhpc.server.record.newest_record`.
    """
    newest = newest_record(folder, at_least=at_least)
    if newest is not None and newest.state != STOPPED:
        return newest
    return _stray(folder, newest) or newest


def is_served(folder: Path, server: ServerRecord) -> bool:
    """Whether that server answers, and works in this folder."""
    return is_ours(folder, server, answer_of(folder, server))


def answer_of(folder: Path, server: ServerRecord) -> Answer:
    """What answers at a server's address, from its own network or from its own machine.

    A server that was stopped is not asked: another program may have its port by now. Nor is one that only another
    machine can reach.
    """
    if server.state in (STOPPED, UNREADABLE) or is_unreachable(server):
        return Answer(reached=False)
    hosts = [server.host, "127.0.0.1"] if server.is_of_this_boot or server.state == STRAY else [server.host]
    return ask(folder, hosts, server.port, where=not server.token or not server.is_folder(folder))


def is_unreachable(server: ServerRecord) -> bool:
    """Whether it listens only on a loopback address of another machine, which from here means this machine."""
    return is_loopback(server.host) and server.state != STRAY and not server.is_of_this_boot


def is_ours(folder: Path, server: ServerRecord, answer: Answer) -> bool:
    """Whether that is the server's own answer, and it works in this folder."""
    if answer.token is None or server.state in (STOPPED, UNREADABLE):
        return False
    if not server.token:
        return answer.works_here is True
    if answer.token != server.token:
        return False
    if answer.works_here is None:
        return server.is_folder(folder) or server.folder.path == str(folder)
    return answer.works_here


def is_here(folder: Path, server: ServerRecord) -> bool:
    """Whether a server's process is one of this machine and container, and works in this folder."""
    return _is_seen(server) and (server.is_folder(folder) or serving_pid(folder) == server.pid)


def known_endpoint(folder: Path) -> Endpoint | None:
    """The endpoint of a folder's server, from its file; from its record, if the file cannot be seen from here yet.

    Returns:
        Its ``pid`` is None if the file or the record says that the server was stopped. None: there is neither a file
        nor the record of a running server.

    Raises:
        DatabaseAwayError: it can be reached on another machine only.
        DatabaseError: the file cannot be understood, or is not for this user.
    """
    endpoint = read_endpoint(folder)
    if endpoint is not None and endpoint.pid is None:
        return endpoint
    record = newest_record(folder.resolve())
    if endpoint is None:
        return record.endpoint() if record is not None and record.state == RUNNING else None
    if record is None or record.token != endpoint.token:
        return endpoint
    if is_unreachable(record):
        raise DatabaseAwayError(f"it listens on {record.host} of {record.node} only, which is another machine")
    return replace(endpoint, pid=None) if record.state == STOPPED else endpoint


def refuse_copy(folder: Path) -> None:
    """Refuse a folder that is a copy of another one whose server still runs.

    Raises:
        DatabaseError: it is such a copy.
    """
    folder = folder.resolve()
    server = newest_record(folder)
    if server is None or server.state == STOPPED or not server.is_in_copy(folder):
        return
    answer = answer_of(folder, server)
    if answer.token == server.token and answer.works_here is False:
        raise DatabaseError(_copied(folder, server).reason)


def doubt(folder: Path, server: ServerRecord | None, lock: FileLock | None) -> Doubt | None:
    """Why a server that does not answer may still live; None: it has ended for certain.

    Args:
        folder: The server's folder, resolved.
        server: Its record; None: there was none.
        lock: The lock on ``server.lock``; None: another process has it.
    """
    if server is not None and _is_seen(server) and not server.is_in_copy(folder):
        return _running_here(folder, server)
    if lock is None:
        # A server that took over from a machine that is down never got the lock, which that machine may keep for ever.
        is_others = server is not None and server.state == RUNNING and not server.folder.has_locks
        return None if is_others and _is_over(server) else _locked(folder, server)
    if server is None or server.state == STOPPED:
        return None
    if server.state == STRAY:
        return _unexplained(folder, server)
    if server.state == UNREADABLE:
        # A start that is just writing the record would hold the lock.
        if lock.problem is not None or not is_local(file_system(folder)):
            return _unreadable(server)
    elif server.is_in_copy(folder):
        return _copied(folder, server)
    elif not _has_ended(folder, server, lock):
        return _elsewhere(folder, server)
    return None if is_explained(folder) else _unexplained(folder, server)


def is_explained(folder: Path) -> bool:
    """Whether PostgreSQL's own lock file, if there is one, was left by a server that kdhpc started."""
    written = written_pid(folder)
    if written is None or written.pid == NOBODYS_PID:
        return True
    known = known_pids(folder)
    # An incomplete file was left by a crash of its machine.
    return written in known or (written.pid == 0 and bool(known))


def described(server: ServerRecord) -> str:
    """A server in words: where, since when."""
    job = f" of job {server.job}" if server.job else ""
    place = f" on {server.node}" if server.node else ""
    since = f", since {server.started}" if server.started else ""
    return f"process {server.pid}{job}{place}{since}"


def _is_seen(server: ServerRecord) -> bool:
    """Whether its process can be seen from here, and has not ended."""
    if server.state in (STOPPED, STRAY, UNREADABLE) or not server.is_of_this_space:
        return False
    is_it = process_start(server.pid) == (server.process_start or None)
    return is_it and not has_ended(server.pid, server.space, server.process_start)


def _is_over(server: ServerRecord | None) -> bool:
    """Whether its process can be told from here, and has ended."""
    return server is not None and has_ended(server.pid, server.space, server.process_start)


def _has_ended(folder: Path, server: ServerRecord, lock: FileLock) -> bool:
    if _is_over(server):
        return True
    if not server.is_folder(folder):
        return False
    if not server.is_of_this_boot:
        return is_local(server.folder.file_system) and is_local(file_system(folder))
    # Processes of one machine see each other's locks through the same mount, even if those of two machines do not.
    return server.folder.has_locks and lock.problem is None


def _stray(folder: Path, newest: ServerRecord | None) -> ServerRecord | None:
    """A server without a record: one of an older kdhpc, or one that was started by hand."""
    number = newest.number if newest else 0
    endpoint = None if newest else read_endpoint(folder)
    written = None if is_explained(folder) else written_pid(folder)
    if endpoint is not None and endpoint.pid is not None:
        found = unknown_record(
            number, STRAY, host=endpoint.host, port=endpoint.port, node=endpoint.node, pid=endpoint.pid
        )
        return replace(found, started=endpoint.started, job=endpoint.job)
    if written is not None:
        return unknown_record(number, STRAY, host="127.0.0.1", port=written.port, pid=written.pid)
    return None


def _running_here(folder: Path, server: ServerRecord) -> Doubt:
    what = "another start of PostgreSQL" if server.state == STARTING else "PostgreSQL"
    return Doubt(
        reason=f"{what} ({described(server)}) runs on this machine and does not answer: see {log_path(folder)}",
        patience_s=_STARTING_S,
        is_final=True,
    )


def _locked(folder: Path, server: ServerRecord | None) -> Doubt:
    is_unread = server is not None and server.state == UNREADABLE
    who = f"; {server.problem if is_unread else f'the last one known is {described(server)}'}" if server else ""
    is_from_here = server is not None and server.state != STOPPED and server.is_of_this_boot
    is_here = is_from_here or is_local(file_system(folder))
    otherwise = "" if is_here else f"; or, if that machine is down for certain, {_TAKE_OVER}"
    return Doubt(
        reason=f"a PostgreSQL that does not answer from here, or what is left of it, still works in {folder}: it holds "
        f"{lock_path(folder).name}{_holder(folder)}{who}. Stop it where it was started (`kdhpc db stop`), in the same "
        f"container if it was one{otherwise}",
        # A record that was just written may not be seen from here for half a minute.
        patience_s=_STARTING_S if is_unread else _ENDING_S,
        is_final=is_here,
    )


def _holder(folder: Path) -> str:
    """Who holds the lock, if it is somebody who should not."""
    pid = lock_holder(lock_path(folder))
    owner = None if pid is None else process_owner(pid)
    if owner is None or owner in (0, os.geteuid(), nobody()[0]):
        return ""
    return f" (process {pid} of {user_name(owner)}, who has no business there: that process must end)"


def _elsewhere(folder: Path, server: ServerRecord) -> Doubt:
    place = (
        "in another container of this machine" if server.is_of_this_boot else "on another machine, as seen from here"
    )
    no_locks = "" if server.folder.has_locks else ", and there were no locks that would tell"
    return Doubt(
        reason=f"the database was started on {server.node} ({described(server)}), {place}, and not stopped. It does "
        f"not answer at {server.host}:{server.port}{no_locks}, so whether it has ended is not certain, and two servers "
        f"on one data folder destroy it. Stop it there: `kdhpc db stop`; or, if {server.node} is down for certain, "
        f"{_TAKE_OVER}",
        patience_s=_STARTING_S if server.state == STARTING else 0.0,
    )


def _copied(folder: Path, server: ServerRecord) -> Doubt:
    return Doubt(
        reason=f"{folder} is a copy of {server.folder.path}, made while its server ran ({described(server)}): the data "
        f"may be of different moments. Stop that server (`kdhpc db stop` there) and copy the folder again; or, if it "
        f"did not run then for certain, {_TAKE_OVER}. If it is the same folder by another mount, use the first path",
    )


def _unexplained(folder: Path, server: ServerRecord) -> Doubt:
    written = written_pid(folder)
    is_here = serving_pid(folder) is not None
    says = f"the database was started by an older kdhpc ({described(server)}) and not stopped"
    if written is not None:
        says = f"{pid_path(folder)} says that PostgreSQL runs in it (process {written.pid}, port {written.port})"
    way = (
        "it runs on this machine: stop it" if is_here else f"stop that one; or, if none runs for certain, {_TAKE_OVER}"
    )
    return Doubt(
        reason=f"{says}, no record of kdhpc tells where, and it does not answer: {way}",
        patience_s=_STARTING_S if is_here else 0.0,
        is_final=is_here,
    )


def _unreadable(server: ServerRecord) -> Doubt:
    return Doubt(
        reason=f"{server.problem}: it says where the database runs. Stop the server where it runs: `kdhpc db stop`; "
        f"or, if none runs for certain, {_TAKE_OVER}",
        patience_s=_STARTING_S,
    )
