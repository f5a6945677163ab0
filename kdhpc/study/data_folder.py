"""The embedded server's data folder: made once, with one role and one database, and its rules of access."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from kdhpc.errors import DatabaseError
from kdhpc.study.postgres import Account

ROLE = "kdhpc"
"""The workers' role, owner of the database, not a superuser."""
DATABASE = "kdhpc"
"""The only database that can be connected to."""
PASSFILE = "passfile"
"""The libpq password file, beside the data."""


def initialise(folder: Path, account: Account) -> None:
    """Make the data folder and the password file, where they are missing.

    The data is prepared under another name: what is interrupted leaves nothing that looks finished.

    Raises:
        DatabaseError: PostgreSQL's own words, in one line.
    """
    data, staging, passfile = folder / "data", folder / "data.new", folder / PASSFILE
    if data.exists() and passfile.exists():
        return
    password = secrets.token_urlsafe(32)
    if data.exists():
        account.own(data)
        _single_user(account, data, f"ALTER ROLE {ROLE} PASSWORD '{password}';\n")
    else:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        os.chown(staging, account.uid, account.gid)
        arguments = ("--auth=reject", "--username=postgres", "--encoding=UTF8", "--locale=C")
        _run(account, account.command("initdb", "-D", str(staging), *arguments))
        role = f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}';\n"
        _single_user(account, staging, f"{role}CREATE DATABASE {DATABASE} OWNER {ROLE};\n")
    _write_private(passfile, f"*:*:{DATABASE}:{ROLE}:{password}\n")
    if staging.exists():
        staging.rename(data)


def write_access_rules(folder: Path, networks: tuple[str, ...]) -> None:
    """Who may connect: the workers' role to its database, with its password, from this machine and these networks."""
    rules = [f"host {DATABASE} {ROLE} {network} scram-sha-256" for network in ("127.0.0.0/8", "::1/128", *networks)]
    _write_private(folder / "data" / "pg_hba.conf", "\n".join(rules) + "\n")


def dump(folder: Path, programs: Path, port: int, target: Path) -> None:
    """Write a dump of the running server's database, for ``pg_restore``.

    Raises:
        DatabaseError: PostgreSQL's own words, in one line.
    """
    staging = target.with_suffix(".tmp")
    address = ["--host=127.0.0.1", f"--port={port}", f"--username={ROLE}", "--no-password"]
    done = subprocess.run(
        [programs / "pg_dump", *address, "--format=custom", f"--file={staging}", DATABASE],
        env={**_environment(), "PGPASSFILE": str(folder / PASSFILE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        raise DatabaseError(_last_words(done.stderr))
    staging.replace(target)


def _single_user(account: Account, data: Path, statements: str) -> None:
    """Run statements as the superuser, with no server that anyone could connect to; they arrive on no command line."""
    arguments = ("-c", "password_encryption=scram-sha-256", "-c", "exit_on_error=on", "postgres")
    _run(account, account.command("postgres", "--single", "-D", str(data), *arguments), statements)


def _run(account: Account, command: list[str], stdin: str = "") -> None:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=_environment(),
    )
    if done.returncode != 0:
        raise DatabaseError(f"the database could not be made with {account.programs}: {_last_words(done.stderr)}")


def _environment() -> dict[str, str]:
    """Nothing of the user's: neither locale, nor ``PG*`` variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _last_words(stderr: str) -> str:
    return " | ".join(line.strip() for line in stderr.strip().splitlines()[-3:]) or "no reason given"


def _write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read; the owner of an existing one stays."""
    staging = path.with_name(path.name + ".tmp")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    staging.replace(path)
