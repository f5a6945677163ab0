"""The embedded PostgreSQL: for those who have no database server, and no administrator to ask for one.

Everything lies in one folder: ``data`` (PostgreSQL's), ``endpoint.json``, ``passfile``, ``server.log``, ``kdhpc.dump``
(written at each stop). The workers' role is not a superuser, and the superuser cannot log in at all. There is no Unix
socket: its path would be limited to 107 characters, and TCP with a password serves all.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from ipaddress import ip_address, ip_network
from pathlib import Path

from kdhpc.config.paths import server_dir
from kdhpc.errors import DatabaseError, UsageError
from kdhpc.study.data_folder import DATABASE, PASSFILE, ROLE, dump, initialise, write_access_rules
from kdhpc.study.endpoint import Endpoint, read_endpoint, write_endpoint
from kdhpc.study.postgres import find_account, installed_programs
from kdhpc.study.server_process import (
    NotStartedError,
    answers,
    await_running,
    end,
    forget_dead_pid,
    free_port,
    launch,
    log_path,
    running_pid,
    running_port,
)

_SPARE_CONNECTIONS = 50


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the server is started.

    Raises:
        UsageError: a network that is not one, or a number out of range.
    """

    listen: str = "127.0.0.1"
    """Name or address of this machine that the workers use; ``all``: every interface, under the machine's name."""
    allow: tuple[str, ...] = ()
    """Networks (``10.0.0.0/8``) that may connect when not only this machine may; none: those of its own interfaces."""
    port: int | None = None
    """TCP port; none: the last one if it is free, else any free one."""
    workers: int = 100
    """Workers that may be connected at once."""
    job: str | None = None
    """The batch job that starts the server, and that it will not outlive; none: outside of one."""

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
    """The dump that was written on the way."""
    warning: str | None
    """Why there is no dump."""


def start(folder: Path, options: ServerOptions, *, take_over: bool = False, timeout_s: float = 60.0) -> Started:
    """Make sure that the server of a folder runs; its process outlives the caller.

    Args:
        folder: the server's folder; made, with a new database in it, where there is none.
        options: have no effect on a server that runs already.
        take_over: start even though the folder's server was last seen on another machine and was not stopped there. Two
            servers on one data folder destroy it: only for a machine that is known to be down.
        timeout_s: longest time until the server answers.

    Raises:
        DatabaseError: there are no programs, the server does not come up, or another machine runs it.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        before = read_endpoint(folder)
        pid = await_running(folder, timeout_s)
        if pid is None:
            if not take_over:
                _refuse_other_node(before)
            return Started(endpoint=_start(folder, options, before, timeout_s), already=False)
        if before is None or before.pid != pid:
            before = _endpoint(options, running_port(folder), pid)
            write_endpoint(folder, before)
        return Started(endpoint=before, already=True)


def stop(folder: Path, *, write_dump: bool = True, timeout_s: float = 60.0) -> Stopped:
    """Dump the database beside its data (unless there is no time for it), then shut the server down cleanly.

    Raises:
        DatabaseError: another machine runs it, or it does not end.
    """
    folder = folder.resolve()
    if not folder.exists():
        return Stopped(was_running=False, dump=None, warning=None)
    with _locked(folder):
        endpoint = read_endpoint(folder)
        pid = running_pid(folder)
        if pid is None:
            _refuse_other_node(endpoint)
            warning = None
        else:
            warning = _dump(folder) if write_dump else "there was no time for it"
            end(folder, pid, timeout_s)
        if endpoint is not None:
            write_endpoint(folder, replace(endpoint, pid=None))
        written = None if pid is None or warning else dump_path(folder)
        return Stopped(was_running=pid is not None, dump=written, warning=warning)


def adopt(folder: Path, orphan: Endpoint, job: str | None) -> bool:
    """Let a running server end with another batch job, or with none; False: it is not what it was any more."""
    folder = folder.resolve()
    with _locked(folder):
        if read_endpoint(folder) != orphan or running_pid(folder) != orphan.pid:
            return False
        write_endpoint(folder, replace(orphan, job=job))
        return True


def ensure_server() -> None:
    """Start the embedded server if it does not run, unless ``KDHPC_STORAGE`` names another.

    Raises:
        DatabaseError: as ``start``.
    """
    if not os.environ.get("KDHPC_STORAGE"):
        start(server_dir(), ServerOptions())


def running(folder: Path) -> Endpoint | None:
    """The endpoint of a folder's server if that answers, on whatever machine it is."""
    endpoint = read_endpoint(folder)
    is_up = endpoint is not None and endpoint.pid is not None and answers(folder, endpoint.host, endpoint.port)
    return endpoint if is_up else None


def dump_path(folder: Path) -> Path:
    """The dump that the last stop wrote, for ``pg_restore``."""
    return folder / f"{DATABASE}.dump"


def _start(folder: Path, options: ServerOptions, before: Endpoint | None, timeout_s: float) -> Endpoint:
    """Prepare the folder, start the process, write where it is."""
    deadline = time.monotonic() + timeout_s
    address = _address(options.listen)
    is_local = address != "*" and ip_address(address).is_loopback
    data = folder / "data"
    account = find_account(installed_programs(_data_version(folder)), folder)
    initialise(folder, account)
    write_access_rules(folder, () if is_local else options.allow or ("samenet",))
    forget_dead_pid(folder)
    account.own(data)
    preferred = options.port or (before.port if before else None)
    while True:
        port = free_port(preferred)
        if options.port not in (None, port):
            raise DatabaseError(f"--port {options.port} is in use: name another, or none for any free one")
        try:
            pid = launch(folder, account, _settings(options, address, port), deadline)
        except NotStartedError as exc:
            if exc.is_passing and time.monotonic() < deadline:
                preferred = options.port
                time.sleep(0.5)
                continue
            raise DatabaseError(f"PostgreSQL did not start: {exc} (all in {log_path(folder)})") from exc
        endpoint = _endpoint(options, port, pid)
        write_endpoint(folder, endpoint)
        return endpoint


def _settings(options: ServerOptions, address: str, port: int) -> dict[str, str]:
    return {
        "port": str(port),
        "listen_addresses": address if address == "*" else ",".join(dict.fromkeys(("127.0.0.1", address))),
        "max_connections": str(options.workers + _SPARE_CONNECTIONS),
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # No query here is large enough, and containers have little of the shared memory that it needs.
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


def _endpoint(options: ServerOptions, port: int, pid: int) -> Endpoint:
    return Endpoint(
        host=socket.gethostname() if options.listen == "all" else options.listen,
        port=port,
        database=DATABASE,
        user=ROLE,
        passfile=PASSFILE,
        node=socket.gethostname(),
        pid=pid,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        job=options.job,
    )


def _refuse_other_node(endpoint: Endpoint | None) -> None:
    """A server that another machine may still run is neither started nor declared stopped here."""
    if endpoint is not None and endpoint.pid is not None and endpoint.node != socket.gethostname():
        raise DatabaseError(
            f"the database was started on {endpoint.node} (process {endpoint.pid}) and not stopped: stop it there; or, "
            f"if {endpoint.node} is down for certain, `kdhpc db start --take-over` (for a cluster with --listen all)"
        )


def _data_version(folder: Path) -> str | None:
    path = folder / "data" / "PG_VERSION"
    return path.read_text().strip() if path.exists() else None


def _dump(folder: Path) -> str | None:
    """Write the dump; in words, why it could not be written."""
    try:
        dump(folder, installed_programs(_data_version(folder)), running_port(folder), dump_path(folder))
    except (OSError, DatabaseError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One start or stop at a time, where the file system has locks."""
    with (folder / "lock").open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
