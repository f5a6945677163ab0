"""The embedded server's data folder: made once, with one role and one database, and its rules of access.

Each start gives the role a new password, and the password file names the hosts and the port for which it is. A
stranger's program that listens on the port of an earlier start learns nothing that lets it log in, not even if it
passes on what clients send to the server on its new port.
"""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.removing import remove_tree
from kdhpc.files.storage_errors import storage_error
from kdhpc.files.writing import move, replacing, write_whole
from kdhpc.folders import append_to
from kdhpc.server.database_errors import CROWDED_S, is_crowded
from kdhpc.server.libpq import connection_string
from kdhpc.server.log import cannot_start, explained, log_path, reason_in
from kdhpc.server.postgres import Account, clean_environment

ROLE = "kdhpc"
"""The workers' role, owner of the database, not a superuser."""
DATABASE = "kdhpc"
"""The only database that can be connected to."""
PASSFILE = "passfile"
"""The libpq password file, beside the data."""


class ProgramError(DatabaseError):
    """A program of PostgreSQL's ended with an error; all that it wrote is in :attr:`text`."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def initialise(folder: Path, account: Account, lock: FileLock | None) -> str:
    """Make the data folder where it is missing, and give the workers' role a new password.

    New data is prepared under another name, so that an interruption leaves nothing that looks finished.

    Args:
        folder: The server's folder.
        account: The identity that owns the data.
        lock: The lock on the folder, which PostgreSQL's processes hold as long as they work in it; None: no lock.

    Returns:
        The password. No client knows it before :func:`write_password`.

    Raises:
        ProgramError: a program of PostgreSQL failed; the message is its own, in one line.
        StorageError: the file system refuses.
    """
    data, staging = folder / "data", folder / "data.new"
    password = secrets.token_urlsafe(32)
    if data.exists():
        account.own(data)
        _single_user(account, folder, data, f"ALTER ROLE {ROLE} PASSWORD '{password}';\n", lock)
    else:
        remove_tree(staging)
        try:
            staging.mkdir(mode=0o700)
            os.chown(staging, account.uid, account.gid)
        except OSError as exc:
            raise storage_error(exc, staging, "made") from exc
        arguments = ("--auth=reject", "--username=postgres", "--encoding=UTF8", "--locale=C")
        _run(folder, account.command("initdb", "-D", str(staging), *arguments), lock=lock)
        role = f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}';\n"
        _single_user(account, folder, staging, f"{role}CREATE DATABASE {DATABASE} OWNER {ROLE};\n", lock)
        move(staging, data)
    return password


def write_password(folder: Path, password: str, *, hosts: Iterable[str], port: int) -> None:
    """Write the libpq password file. It is for one server: libpq uses the password for no other host or port.

    Raises:
        StorageError: the file system refuses.
    """
    names = [host.replace("\\", "\\\\").replace(":", "\\:") for host in dict.fromkeys(hosts)]
    lines = [f"{name}:{port}:{DATABASE}:{ROLE}:{password}\n" for name in names]
    write_whole(folder / PASSFILE, *lines, mode=0o600)


def write_access_rules(folder: Path, networks: tuple[str, ...]) -> None:
    """Let only the workers' role connect, to its database, with its password, from this machine and these networks.

    Raises:
        StorageError: the file system refuses.
    """
    rules = [f"host {DATABASE} {ROLE} {network} scram-sha-256" for network in ("127.0.0.0/8", "::1/128", *networks)]
    write_whole(folder / "data" / "pg_hba.conf", "\n".join(rules), "\n", mode=0o600)


def dump(folder: Path, programs: Path, port: int, target: Path) -> None:
    """Write a dump of the running server's database, for ``pg_restore``.

    Raises:
        DatabaseError: ``pg_dump`` failed; the message is its own, in one line.
        StorageError: the file system refuses; the previous dump is still there.
    """
    # A server that hangs accepts a connection and never answers.
    parameters = {"host": "127.0.0.1", "port": port, "user": ROLE, "dbname": DATABASE, "connect_timeout": 10}
    server = connection_string(passfile=str(folder / PASSFILE), **parameters)
    deadline = time.monotonic() + CROWDED_S
    with replacing(target, mode=0o600) as staging, staging.open("wb") as file:
        while True:
            done = subprocess.run(
                [programs / "pg_dump", "--no-password", "--format=custom", f"--dbname={server}"],
                env=clean_environment(),
                stdout=file,
                stderr=subprocess.PIPE,
                check=False,
                timeout=600,
            )
            said = done.stderr.decode(errors="replace")
            if done.returncode == 0:
                return
            if not is_crowded(said) or time.monotonic() > deadline:
                raise DatabaseError(reason_in(said) or "no reason given")
            time.sleep(0.2)


def _single_user(account: Account, folder: Path, data: Path, statements: str, lock: FileLock | None) -> None:
    """Run statements as the superuser in single-user mode, in which nobody can connect. They are passed by stdin."""
    arguments = ("-c", "password_encryption=scram-sha-256", "-c", "exit_on_error=on", "postgres")
    _run(folder, account.command("postgres", "--single", "-D", str(data), *arguments), statements, lock=lock)


def _run(folder: Path, command: list[str], stdin: str = "", *, lock: FileLock | None) -> None:
    try:
        done = subprocess.run(
            command,
            input=stdin.encode(),
            capture_output=True,
            check=False,
            cwd="/",
            env=clean_environment(),
            # The program may outlive this process if that is killed. While it holds the lock, nobody starts beside it.
            pass_fds=() if lock is None else (lock.fileno(),),
        )
    except OSError as exc:
        raise cannot_start(command[0], exc) from exc
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace")
        with contextlib.suppress(OSError, StorageError), os.fdopen(append_to(log_path(folder)), "wb") as log:
            log.write(done.stderr)
        raise ProgramError(explained(folder, text), text)
