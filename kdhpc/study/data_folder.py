"""The embedded server's data folder: made once, with one role and one database, and its rules of access."""

import os
import secrets
import subprocess
from pathlib import Path

from kdhpc.errors import DatabaseError
from kdhpc.files import FileLock, remove_tree, replacing, storage_error, write_whole
from kdhpc.study.postgres import Account

ROLE = "kdhpc"
"""The workers' role, owner of the database, not a superuser."""
DATABASE = "kdhpc"
"""The only database that can be connected to."""
PASSFILE = "passfile"
"""The libpq password file, beside the data."""


def initialise(folder: Path, account: Account, lock: FileLock | None) -> None:
    """Make the data folder and the password file, where they are missing.

    The data is prepared under another name: what is interrupted leaves nothing that looks finished.

    Args:
        folder: The server's folder.
        account: Who owns the data.
        lock: Of the folder, held by PostgreSQL's programs as long as they work in it.

    Raises:
        DatabaseError: PostgreSQL's own words, in one line.
    """
    data, staging, passfile = folder / "data", folder / "data.new", folder / PASSFILE
    if data.exists() and passfile.exists():
        return
    password = secrets.token_urlsafe(32)
    if data.exists():
        account.own(data)
        _single_user(account, data, f"ALTER ROLE {ROLE} PASSWORD '{password}';\n", lock)
    else:
        remove_tree(staging)
        try:
            staging.mkdir(mode=0o700)
            os.chown(staging, account.uid, account.gid)
        except OSError as exc:
            raise storage_error(exc, staging, "made") from exc
        arguments = ("--auth=reject", "--username=postgres", "--encoding=UTF8", "--locale=C")
        _run(account, account.command("initdb", "-D", str(staging), *arguments), lock=lock)
        role = f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}';\n"
        _single_user(account, staging, f"{role}CREATE DATABASE {DATABASE} OWNER {ROLE};\n", lock)
        try:
            staging.rename(data)
        except OSError as exc:
            raise storage_error(exc, data, "made") from exc
    # Last: data without a password file is given a new password, and no password goes with other data.
    write_whole(passfile, f"*:*:{DATABASE}:{ROLE}:{password}\n", mode=0o600)


def write_access_rules(folder: Path, networks: tuple[str, ...]) -> None:
    """Who may connect: the workers' role to its database, with its password, from this machine and these networks."""
    rules = [f"host {DATABASE} {ROLE} {network} scram-sha-256" for network in ("127.0.0.0/8", "::1/128", *networks)]
    write_whole(folder / "data" / "pg_hba.conf", "\n".join(rules), "\n", mode=0o600)


def dump(folder: Path, programs: Path, port: int, target: Path) -> None:
    """Write a dump of the running server's database, for ``pg_restore``.

    Raises:
        DatabaseError: PostgreSQL's own words, in one line.
        StorageError: the file system refuses; the dump before is still there.
    """
    address = ["--host=127.0.0.1", f"--port={port}", f"--username={ROLE}", "--no-password"]
    with replacing(target) as staging:
        done = subprocess.run(
            [programs / "pg_dump", *address, "--format=custom", f"--file={staging}", DATABASE],
            env={**_environment(), "PGPASSFILE": str(folder / PASSFILE)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=600,
        )
        if done.returncode != 0:
            raise DatabaseError(_last_words(done.stderr))


def _single_user(account: Account, data: Path, statements: str, lock: FileLock | None) -> None:
    """Run statements as the superuser, with no server that anyone could connect to; they arrive on no command line."""
    arguments = ("-c", "password_encryption=scram-sha-256", "-c", "exit_on_error=on", "postgres")
    _run(account, account.command("postgres", "--single", "-D", str(data), *arguments), statements, lock=lock)


def _run(account: Account, command: list[str], stdin: str = "", *, lock: FileLock | None) -> None:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd="/",
        env=_environment(),
        # It may outlive this process, where that is killed: nobody is to begin beside it.
        pass_fds=() if lock is None else (lock.fileno(),),
    )
    if done.returncode != 0:
        raise DatabaseError(f"the database could not be made with {account.programs}: {_last_words(done.stderr)}")


def _environment() -> dict[str, str]:
    """Nothing of the user's: neither locale, nor ``PG*`` variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _last_words(stderr: str) -> str:
    return " | ".join(line.strip() for line in stderr.strip().splitlines()[-3:]) or "no reason given"
