"""The process of the embedded server: starting it, finding it again, asking whether it answers, ending it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg2

from kdhpc.errors import DatabaseError
from kdhpc.study.data_folder import DATABASE, PASSFILE, ROLE
from kdhpc.study.postgres import Account

_LOG_LIMIT_BYTES = 20_000_000
_NOBODYS_PID = 2**30  # Linux gives numbers below 2**22.
# A server that was killed leaves children for a moment; PostgreSQL says so and does not start beside them.
_PASSING = ("could not create any TCP/IP sockets", "is still in use")


class NotStartedError(Exception):
    """The process ended at once; the reason is in the message."""

    def __init__(self, log_text: str) -> None:
        super().__init__(tail(log_text))
        self.is_passing = any(words in log_text for words in _PASSING)


def log_path(folder: Path) -> Path:
    """PostgreSQL's log."""
    return folder / "server.log"


def tail(text: str, lines: int = 3) -> str:
    """The end of a log, in one line."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:]) or "it wrote nothing"


def launch(folder: Path, account: Account, settings: Mapping[str, str], deadline: float) -> int:
    """Start the process, which outlives the caller, and wait until it answers.

    Args:
        folder: the server's folder, with its data.
        account: who runs it.
        settings: PostgreSQL's, by name; on the command line they hold whatever the folder's files say.
        deadline: on ``time.monotonic``.

    Returns:
        The process id.

    Raises:
        NotStartedError: it ended.
        DatabaseError: it did not answer in time; it is stopped again.
    """
    log = log_path(folder)
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with log.open("ab") as output:
        began = output.tell()
        process = subprocess.Popen(
            account.command("postgres", "-D", str(folder / "data"), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
        )
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStartedError(_text_from(log, began))
        if answers(folder, "127.0.0.1", int(settings["port"])):
            # The process outlives this one: nobody is to wait for it.
            process.returncode = 0
            return process.pid
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    raise DatabaseError(f"PostgreSQL did not answer in time: {tail(_text_from(log, began))} (all in {log})")


def await_running(folder: Path, timeout_s: float) -> int | None:
    """The process id of this folder's server once it answers; none if it does not run, or ends while it is asked.

    Raises:
        DatabaseError: it runs, and does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    while pid := running_pid(folder):
        # The file of a server that is just ending may be gone by now.
        with contextlib.suppress(OSError, ValueError, IndexError):
            if answers(folder, "127.0.0.1", running_port(folder)):
                return pid
        if time.monotonic() > deadline:
            raise DatabaseError(f"PostgreSQL (process {pid}) runs and does not answer: see {log_path(folder)}")
        time.sleep(0.05)
    return None


def answers(folder: Path, host: str, port: int) -> bool:
    """Whether the workers' role can connect."""
    try:
        connection = psycopg2.connect(
            host=host, port=port, dbname=DATABASE, user=ROLE, passfile=str(folder / PASSFILE), connect_timeout=3
        )
    except psycopg2.OperationalError:
        return False
    connection.close()
    return True


def running_pid(folder: Path) -> int | None:
    """The process id of this folder's server on this machine, whoever started it; none if there is none."""
    try:
        pid = _written_pid(folder)
        process = Path(f"/proc/{pid}")
        command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        is_ours = str(folder / "data") in command and not _is_zombie(process)
    except (OSError, ValueError, IndexError):
        return None
    return pid if is_ours else None


def running_port(folder: Path) -> int:
    """The port that the running server has written down."""
    return int(_pid_file(folder).read_text().splitlines()[3])


def forget_dead_pid(folder: Path) -> None:
    """Let PostgreSQL see that a killed server is gone, where its number lives on.

    PostgreSQL takes any process of that number for the old server: another program that has it now, or the old server
    itself, dead but not yet asked for by its parent. A number that nobody can have makes it go by the rest of the file:
    it starts unless the old server's children still hold the shared memory.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        process = Path(f"/proc/{_written_pid(folder)}")
        if (process / "comm").read_text().strip() != "postgres" or _is_zombie(process):
            pid_file = _pid_file(folder)
            rest = pid_file.read_text().partition("\n")[2]
            # Written in place, not renamed: the file's owner must stay the server's account.
            pid_file.write_text(f"{_NOBODYS_PID}\n{rest}")


def end(folder: Path, pid: int, timeout_s: float) -> None:
    """Shut the server down: cleanly, then at once (it recovers at its next start).

    Raises:
        DatabaseError: it does not end.
    """
    for how, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            # Where the caller started it, the ended process stays until it is asked for.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if running_pid(folder) != pid:
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


def _pid_file(folder: Path) -> Path:
    return folder / "data" / "postmaster.pid"


def _written_pid(folder: Path) -> int:
    return int(_pid_file(folder).read_text().split()[0])


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _text_from(log: Path, position: int) -> str:
    return log.read_bytes()[position:].decode(errors="replace")
