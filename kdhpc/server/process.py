"""The process of the embedded server: starting it, asking it who it is, ending it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from kdhpc.errors import DatabaseError
from kdhpc.files.locking import FileLock
from kdhpc.files.storage_errors import storage_error
from kdhpc.folders import append_to
from kdhpc.processes import has_ended, process_space, process_start
from kdhpc.server.data_folder import DATABASE, PASSFILE, ROLE
from kdhpc.server.database_errors import CROWDED_S, first_line, is_crowded
from kdhpc.server.libpq import SETTINGS, hidden_environment
from kdhpc.server.log import cannot_start, explained, log_path, shorten_log
from kdhpc.server.postgres import Account, clean_environment

TOKEN_SETTING = "kdhpc.token"
"""PostgreSQL's setting that holds the token of the server's start."""
# A server that was killed leaves children for a moment; PostgreSQL says so and does not start beside them.
_PASSING = ("could not create any TCP/IP sockets", "is still in use")
# PostgreSQL would serve at one address, while another program has the same port at another address.
_HALF_BOUND = "Address already in use"
# A shell that becomes PostgreSQL, under the same process id, once it has read a line; without one it ends.
_GATE = 'read -r word && exec "$@" </dev/null'
_ASKING_S = 3


class NotStartedError(Exception):
    """The process ended at once; the reason is in the message."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.is_passing = is_passing_start(text)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server says of itself."""

    reached: bool
    """Something takes connections there."""
    token: str | None = None
    """Token of its start; empty: it has none, as that of an older kdhpc; None: no database of ours answers."""
    works_here: bool | None = None
    """Whether what it writes appears in this folder; None: it was not asked, or this cannot be told."""
    problem: str = ""
    """Why no database of ours answers, in the client library's words."""


def is_passing_start(text: str) -> bool:
    """Whether a start that ended with these words may succeed a moment later."""
    return any(words in text for words in (*_PASSING, _HALF_BOUND))


def launch(
    folder: Path,
    account: Account,
    settings: Mapping[str, str],
    *,
    lock: FileLock | None,
    begin: Callable[[int], None],
    deadline: float,
) -> None:
    """Start the process, which outlives the caller, and wait until it answers.

    Args:
        folder: The server's folder, with its data.
        account: The identity that runs it.
        settings: PostgreSQL's settings by name. They override those in the folder's files.
        lock: A lock that the process and all its children hold as long as they live; None: they hold none.
        begin: Called with the process id before PostgreSQL begins, to write it down. If it raises, or this process ends
            meanwhile, PostgreSQL does not begin.
        deadline: Until when it must answer, on the clock of ``time.monotonic``.

    Raises:
        NotStartedError: it ended; the message is PostgreSQL's reason.
        DatabaseError: it did not answer in time; it is stopped again.
        StorageError: its log cannot be opened.
    """
    log = log_path(folder)
    process, began = _behind_the_gate(log, account.command("postgres", *_arguments(folder, settings)), lock)
    started = process_start(process.pid) or 0
    try:
        begin(process.pid)
        _send(process, b"go\n")
        while (answer := ask(folder, ["127.0.0.1"], int(settings["port"]))).token != settings[TOKEN_SETTING]:
            is_over = process.poll() is not None
            text = _text_from(log, began)
            if is_over or _HALF_BOUND in text:
                raise NotStartedError(explained(folder, text), text)
            if time.monotonic() > deadline:
                why = explained(folder, text, else_=answer.problem or "it wrote nothing")
                raise DatabaseError(f"PostgreSQL did not answer in time: {why} (all in {log})")
            time.sleep(0.05)
        text = _text_from(log, began)
        if _HALF_BOUND in text:
            raise NotStartedError(explained(folder, text), text)
    except BaseException:
        _send(process, b"")
        if process.poll() is None:
            end(folder, process.pid, started, 10.0)
        raise
    finally:
        # It outlives this process, or has ended: with a return code, Popen does not warn that nobody waits for it.
        process.returncode = process.returncode or 0


def ask(folder: Path, hosts: Iterable[str], port: int, *, where: bool = False) -> Answer:
    """Ask who a server is, as the workers' role.

    Args:
        folder: The server's folder, with the password.
        hosts: Names or addresses to try, one after the other.
        port: Its TCP port.
        where: Ask also whether it works in this folder, and not in one that this was copied from.
    """
    reached, problem = False, ""
    for host in dict.fromkeys(hosts):
        if not host or not port:
            continue
        try:
            return _said(folder, host, port, where)
        except psycopg2.Error as exc:
            problem = first_line(str(exc))
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_ASKING_S):
            reached = True
    return Answer(reached=reached, problem=problem)


def num_clients(folder: Path, host: str, port: int) -> int:
    """How many others are connected to a server.

    Raises:
        DatabaseError: none of ours answers.
    """
    try:
        with contextlib.closing(_connect(folder, host, port)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return int(cursor.fetchone()[0])
    except psycopg2.Error as exc:
        raise DatabaseError(f"PostgreSQL at {host}:{port} does not answer: {first_line(str(exc))}") from exc


def end(folder: Path, pid: int, start: int, timeout_s: float) -> None:
    """Shut down a server of this machine and container: cleanly, or if it takes too long at once.

    After the latter, PostgreSQL recovers at its next start.

    Args:
        folder: The server's folder.
        pid: Its process id.
        start: When the process began, in clock ticks since boot. Another process that has its id now is not touched.
        timeout_s: How long a clean shutdown may take.

    Raises:
        DatabaseError: it does not end.
    """
    for how, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 10.0)):
        _signal(pid, start, how)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            # If this process has started it, it stays as a zombie until it is waited for.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if has_ended(pid, process_space(), start):
                return
            time.sleep(0.05)
    raise DatabaseError(f"PostgreSQL (process {pid}) does not end: see {log_path(folder)}")


def free_port(preferred: int | None) -> int:
    """The preferred port if nobody uses it on any interface, else any free one."""
    for port in (preferred or 0, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            return int(probe.getsockname()[1])
    raise DatabaseError("no TCP port is free on this machine")


def _behind_the_gate(log: Path, command: list[str], lock: FileLock | None) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a process that becomes the server once it reads a line.

    Returns:
        The process, and the position in the log at which its output begins.
    """
    try:
        shorten_log(log.parent)
    except OSError as exc:
        raise storage_error(exc, log, "written") from exc
    with os.fdopen(append_to(log), "ab") as output:
        began = output.tell()
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,
                pass_fds=() if lock is None else (lock.fileno(),),
            )
        except OSError as exc:
            raise cannot_start("PostgreSQL", exc) from exc
        return process, began


def _send(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    """Send the waiting process its only line; if that is empty, the process ends."""
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(OSError):  # It may have ended.
            process.stdin.write(word)
            process.stdin.close()


def _arguments(folder: Path, settings: Mapping[str, str]) -> list[str]:
    return ["-D", str(folder / "data"), *(part for key, value in settings.items() for part in ("-c", f"{key}={value}"))]


def _said(folder: Path, host: str, port: int, where: bool) -> Answer:
    """A server's answer.

    Raises:
        psycopg2.Error: none of ours answers.
    """
    connection = _connect(folder, host, port)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s, true)", (TOKEN_SETTING,))
        token = cursor.fetchone()[0] or ""
        works_here = None
        if where:
            with contextlib.suppress(psycopg2.Error, OSError):
                # A table is a file from the moment at which it is made. The transaction is never committed.
                cursor.execute("CREATE TEMPORARY TABLE kdhpc_is_here (value integer)")
                cursor.execute("SELECT pg_relation_filepath('kdhpc_is_here')")
                works_here = (folder / "data" / cursor.fetchone()[0]).exists()
        return Answer(reached=True, token=token, works_here=works_here)


def _connect(folder: Path, host: str, port: int) -> "psycopg2.extensions.connection":
    """A connection. If the server is full, wait until it has dropped clients that connected and did not log in.

    Raises:
        psycopg2.Error: none of ours answers.
    """
    deadline = time.monotonic() + CROWDED_S
    while True:
        try:
            with hidden_environment():
                return psycopg2.connect(
                    host=host,
                    port=port,
                    dbname=DATABASE,
                    user=ROLE,
                    passfile=str(folder / PASSFILE),
                    connect_timeout=_ASKING_S,
                    options="-c statement_timeout=5000",
                    **SETTINGS,
                )
        except psycopg2.Error as exc:
            if not is_crowded(str(exc)) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _signal(pid: int, start: int, how: signal.Signals) -> None:
    """Signal a process, but not another one that has its id now."""
    if process_start(pid) == (start or None):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def _text_from(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")
