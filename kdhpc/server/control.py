"""The embedded PostgreSQL: for those who have no database server, and no administrator to ask for one.

Everything lies in one folder: ``data`` (PostgreSQL's), ``owner.<n>.json`` (one for each start), ``server.lock`` (held
by the server), ``endpoint.json``, ``passfile``, ``server.log``, ``kdhpc.dump`` (written at each stop). The workers'
role is not a superuser, and the superuser cannot log in at all. There is no Unix socket: its path would be limited to
107 characters, and TCP with a password serves all.
"""

import contextlib
import functools
import os
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from kdhpc.config.paths import server_dir
from kdhpc.errors import DatabaseError, StorageError, UsageError
from kdhpc.files.locking import FileLock
from kdhpc.server.data_folder import DATABASE, ProgramError, dump, initialise, write_access_rules, write_password
from kdhpc.server.database_errors import AUTHENTICATION_S
from kdhpc.server.endpoint import Endpoint, read_endpoint, write_endpoint
from kdhpc.server.home import checked_home, made_home, one_at_a_time
from kdhpc.server.log import log_path
from kdhpc.server.ownership import FolderClaim, NotCertainError, TakeOver, find_or_claim, recorded
from kdhpc.server.pid_file import forget_pid
from kdhpc.server.postgres import Account, find_account, installed_programs
from kdhpc.server.process import (
    TOKEN_SETTING,
    NotStartedError,
    end,
    free_port,
    is_passing_start,
    launch,
    num_clients,
)
from kdhpc.server.proof import described, doubt, is_here, is_served, last_server
from kdhpc.server.record import STOPPED, STRAY, ServerRecord, lock_path, update

_SPARE_CONNECTIONS = 50
# How long PostgreSQL's other processes may take to end after the first one has.
_LAST_ONES_S = 10.0
_GLANCE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the server is started.

    Raises:
        UsageError: a network that is not one, or a number out of range.
    """

    listen: str = "127.0.0.1"
    """Name or address of this machine that the workers use; ``all``: every interface, under the machine's name."""
    allow: tuple[str, ...] = ()
    """Networks (``10.0.0.0/8``) that may connect unless only this machine may. Empty: those that this machine is in."""
    port: int | None = None
    """TCP port; None: that of the last start if it is free, else any free one."""
    workers: int = 100
    """Workers that may be connected at once."""
    job: str | None = None
    """The batch job that starts the server, and with which the server ends; None: no job starts it."""

    def __post_init__(self) -> None:
        for network in self.allow:
            try:
                ip_network(network)
            except ValueError as exc:
                raise UsageError(f"--allow {network} is not allowed: a network such as 10.0.0.0/8 ({exc})") from exc
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(f"--port {self.port} is not allowed: 1 to 65535")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers} is not allowed: 1 or more")


@dataclass(frozen=True, kw_only=True)
class Started:
    """The outcome of a start."""

    endpoint: Endpoint
    """Where the server is."""
    already: bool
    """It was running before."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The outcome of a stop."""

    was_running: bool
    """There was something to stop."""
    dump: Path | None
    """The dump that was written before the server ended; None: none was."""
    warning: str | None
    """Why no dump was written; None: one was, or nothing was running."""


def start(
    folder: Path, options: ServerOptions, *, take_over: TakeOver | None = None, timeout_s: float = 60.0
) -> Started:
    """Make sure that the server of a folder runs; its process outlives the caller.

    Args:
        folder: The server's folder; made, with a new database in it, where there is none.
        options: How to start it. They have no effect on a server that runs already.
        take_over: Start even though it is not certain that the last server has ended. Two servers on one data folder
            destroy it, so the last server's machine must be known to be down.
        timeout_s: Longest time until the server answers.

    Raises:
        NotCertainError: it is not certain that the last server has ended.
        DatabaseError: PostgreSQL is not installed, or does not come up.
        StorageError: a file cannot be written; no server that was started is left running.
    """
    deadline = time.monotonic() + timeout_s
    folder = made_home(folder)
    with one_at_a_time(folder):
        return _find_or_start(folder, options, take_over, deadline)


def reopen(folder: Path, before: Endpoint, options: ServerOptions, *, timeout_s: float = 60.0) -> Started | None:
    """Restart a server of this machine with other options, if no client is connected to it.

    Args:
        folder: The server's folder.
        before: Endpoint of the server. If the last server is another one by now, this does the same as :func:`start`.
        options: How to start it.
        timeout_s: Longest time until the server answers.

    Returns:
        None: it runs as before, as it is on another machine, part of another job, or in use.

    Raises:
        DatabaseError: as :func:`start`, or it does not end.
        StorageError: as :func:`start`.
    """
    deadline = time.monotonic() + timeout_s
    folder = checked_home(folder)
    with one_at_a_time(folder):
        server = last_server(folder)
        if server is None or server.endpoint() != before:
            return _find_or_start(folder, options, None, deadline)
        is_ours_to_end = is_here(folder, server) and server.job in (None, options.job)
        if not is_ours_to_end or _is_in_use(folder, server.port):
            return None
        end(folder, server.pid, server.process_start, timeout_s)
        _declare_stopped(folder, server, patience_s=_LAST_ONES_S)
        return _find_or_start(folder, options, None, deadline)


def stop(folder: Path, *, write_dump: bool = True, timeout_s: float = 60.0) -> Stopped:
    """Dump the database beside its data (unless there is no time for it), then shut the server down cleanly.

    Raises:
        NotCertainError: it runs, or may run, where it cannot be ended from here.
        DatabaseError: it does not end.
        StorageError: it has ended, but this cannot be recorded.
    """
    folder = checked_home(folder)
    if not folder.exists():
        return Stopped(was_running=False, dump=None, warning=None)
    with one_at_a_time(folder):
        server = last_server(folder)
        if server is not None and server.state == STRAY and is_served(folder, server):
            server = recorded(folder, server)
        if server is None or not is_here(folder, server):
            if server is not None and is_served(folder, server):
                raise NotCertainError(
                    f"PostgreSQL is not stopped: it runs where it cannot be ended from here ({described(server)}); "
                    "`kdhpc db stop` there, in the same container if it was started in one"
                )
            _declare_stopped(folder, server, patience_s=0.0)
            return Stopped(was_running=False, dump=None, warning=None)
        warning = _dump(folder, server.port) if write_dump else "there was no time for it"
        end(folder, server.pid, server.process_start, timeout_s)
        _declare_stopped(folder, server, patience_s=_LAST_ONES_S)
        return Stopped(was_running=True, dump=None if warning else dump_path(folder), warning=warning)


def adopt(folder: Path, orphan: Endpoint, job: str | None) -> bool:
    """Make a running server part of another batch job, with which it ends, or of none.

    Returns:
        False: nothing was changed, as the folder's server is not ``orphan`` any more, or does not run here.
    """
    folder = checked_home(folder)
    with one_at_a_time(folder):
        server = last_server(folder)
        if server is None or not is_here(folder, server) or server.endpoint() != orphan:
            return False
        adopted = replace(server, job=job)
        update(folder, adopted)
        _publish(folder, adopted)
        return True


def running(folder: Path) -> Endpoint | None:
    """The endpoint of a folder's server if that answers, on whatever machine it is."""
    folder = checked_home(folder)
    server = last_server(folder)
    return server.endpoint() if server is not None and is_served(folder, server) else None


def running_here(folder: Path) -> Endpoint | None:
    """The endpoint of a folder's server if its process is one of this machine and container, answering or not."""
    folder = checked_home(folder)
    server = last_server(folder)
    return server.endpoint() if server is not None and is_here(folder, server) else None


def unstopped(folder: Path) -> ServerRecord | None:
    """The record of a folder's last server, if that was not stopped."""
    server = last_server(checked_home(folder))
    return None if server is None or server.state == STOPPED else server


def ensure_server() -> None:
    """Start the embedded server if it does not run, unless ``KDHPC_STORAGE`` names another.

    Raises:
        DatabaseError: as for :func:`start`, and also if a file cannot be written.
    """
    if not os.environ.get("KDHPC_STORAGE"):
        try:
            start(server_dir(), ServerOptions())
        except StorageError as exc:
            raise DatabaseError(f"the database does not start: {exc}") from exc


def dump_path(folder: Path) -> Path:
    """The dump that the last stop wrote, for ``pg_restore``."""
    return folder / f"{DATABASE}.dump"


def write_dump(folder: Path, target: Path) -> None:
    """Write a dump of the running server's database to a file, for ``pg_restore``.

    Raises:
        DatabaseError: no server of the folder runs on this machine, or ``pg_dump`` fails.
        StorageError: the file system refuses.
    """
    endpoint = running_here(folder)
    if endpoint is None:
        raise DatabaseError(f"no dump of {folder} can be written here: its server does not run on this machine")
    try:
        dump(folder, installed_programs(_data_version(folder)), endpoint.port, target)
    except subprocess.TimeoutExpired as exc:
        raise DatabaseError(f"no dump of {folder} was written: {exc}") from exc


def _is_in_use(folder: Path, port: int) -> bool:
    """Whether a client stays connected for a while. One that only asks whether the server runs soon disconnects."""
    deadline = time.monotonic() + _GLANCE_S
    while num_clients(folder, "127.0.0.1", port):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _find_or_start(folder: Path, options: ServerOptions, take_over: TakeOver | None, deadline: float) -> Started:
    found = find_or_claim(folder, listen=options.listen, job=options.job, take_over=take_over, deadline=deadline)
    if isinstance(found, ServerRecord):
        return Started(endpoint=_publish(folder, found), already=True)
    with found:
        _start(folder, options, found, deadline)
        return Started(endpoint=found.record.endpoint(), already=False)


def _start(folder: Path, options: ServerOptions, claim: FolderClaim, deadline: float) -> None:
    """Prepare the folder, start the process, tell the workers where it is."""
    address = _address(options.listen)
    is_local = address != "*" and ip_address(address).is_loopback
    account = find_account(installed_programs(_data_version(folder)), folder)
    forget_pid(folder)
    password = _initialised(folder, account, claim, deadline)
    write_access_rules(folder, () if is_local else options.allow or ("samenet",))
    account.own(folder / "data")
    preferred = options.port or claim.last_port
    while True:
        port = free_port(preferred)
        if options.port not in (None, port):
            raise DatabaseError(f"--port {options.port} is in use: name another, or none for any free one")
        settings = _settings(options, address, port, claim.record.token)
        write_password(folder, password, hosts=(claim.record.host, "127.0.0.1"), port=port)
        begin = functools.partial(claim.begin, port=port)
        try:
            launch(folder, account, settings, lock=claim.lock, begin=begin, deadline=deadline)
            break
        except NotStartedError as exc:
            if not exc.is_passing or time.monotonic() > deadline:
                raise DatabaseError(f"PostgreSQL did not start: {exc} (all in {log_path(folder)})") from exc
            preferred = options.port
            time.sleep(0.5)
    try:
        _publish(folder, claim.record)
    except BaseException:
        # Without an endpoint file, nobody would find the server.
        end(folder, claim.record.pid, claim.record.process_start, 10.0)
        raise


def _initialised(folder: Path, account: Account, claim: FolderClaim, deadline: float) -> str:
    """Prepare the data folder. Returns the password of this start; a failure that may pass is tried again.

    Raises:
        DatabaseError: PostgreSQL's own words, in one line.
    """
    while True:
        try:
            return initialise(folder, account, claim.lock)
        except ProgramError as exc:
            if not is_passing_start(exc.text) or time.monotonic() > deadline:
                raise DatabaseError(f"PostgreSQL did not start: {exc} (all in {log_path(folder)})") from exc
            time.sleep(0.5)


def _publish(folder: Path, server: ServerRecord) -> Endpoint:
    """Write the endpoint file, by which workers find the server, unless it says the same already.

    Raises:
        StorageError: the file system refuses.
    """
    endpoint, told = server.endpoint(), None
    with contextlib.suppress(DatabaseError):
        told = read_endpoint(folder)
    if told != endpoint:
        write_endpoint(folder, endpoint)
    return endpoint


def _declare_stopped(folder: Path, server: ServerRecord | None, *, patience_s: float) -> None:
    """Write down that a server has ended, once all its processes have.

    Raises:
        NotCertainError: it may still run.
        StorageError: the file system refuses.
    """
    deadline = time.monotonic() + patience_s
    while (lock := FileLock.take(lock_path(folder), private=True)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        why = doubt(folder, server, lock)
        if why is not None:
            raise NotCertainError(f"PostgreSQL is not stopped: {why.reason}")
        if server is not None:
            stopped = replace(server, state=STOPPED)
            if stopped != server:
                update(folder, stopped)
            _publish(folder, stopped)
    finally:
        if lock is not None:
            lock.close()


def _settings(options: ServerOptions, address: str, port: int, token: str) -> dict[str, str]:
    return {
        TOKEN_SETTING: token,
        "port": str(port),
        "listen_addresses": address if address == "*" else ",".join(dict.fromkeys(("127.0.0.1", address))),
        "max_connections": str(options.workers + _SPARE_CONNECTIONS),
        "unix_socket_directories": "",
        # Clients that connect and do not log in must not take the place of others for long.
        "authentication_timeout": str(round(AUTHENTICATION_S)),
        "timezone": "UTC",
        "log_timezone": "UTC",
        # No query here is large enough to be run in parallel, and containers have little shared memory for that.
        "max_parallel_workers_per_gather": "0",
        # A worker that vanished with its machine must not hold its locks for hours.
        "tcp_keepalives_idle": "60",
        "tcp_keepalives_interval": "15",
        "tcp_keepalives_count": "4",
    }


def _address(listen: str) -> str:
    """The address to listen on.

    Raises:
        DatabaseError: the name has none, or one that other machines cannot reach.
    """
    if listen == "all":
        return "*"
    try:
        address = socket.gethostbyname(listen)
    except OSError as exc:
        raise DatabaseError(f"--listen {listen}: no such name or address here; name one, or `all`") from exc
    if ip_address(address).is_loopback and listen not in ("localhost", address):
        raise DatabaseError(
            f"--listen {listen}: the name means {address} on this machine, which no other machine can reach; name an "
            "address of a network interface, or `all`"
        )
    return address


def _data_version(folder: Path) -> str | None:
    path = folder / "data" / "PG_VERSION"
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def _dump(folder: Path, port: int) -> str | None:
    """Write the dump. Returns why it could not be written; None: it was."""
    try:
        dump(folder, installed_programs(_data_version(folder)), port, dump_path(folder))
    except (OSError, DatabaseError, StorageError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return None
