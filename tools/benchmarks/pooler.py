"""PgBouncer in transaction mode before a PostgreSQL: clients share few sessions, and none has one of its own.

For benchmarks and tests. Needs Debian's package ``pgbouncer``, which need not run as a service.
"""

import os
import pwd
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from kdhpc.errors import DatabaseError
from kdhpc.server.process import free_port

_STARTS_S = 30.0
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def pgbouncer_program() -> str | None:
    """The program; none where it is not installed."""
    return shutil.which("pgbouncer", path=_SEARCH_PATH)


@contextmanager
def pgbouncer(server: str, *, sessions: int, clients: int = 100) -> Iterator[str]:
    """Run it; gives the URL that reaches the server through it.

    Args:
        server: URL of the PostgreSQL, with a password or a libpq password file.
        sessions: of the server, which all clients share.
        clients: that may be connected at once.

    Raises:
        DatabaseError: it is not installed, or does not start.
    """
    program = pgbouncer_program()
    if program is None:
        raise DatabaseError("pgbouncer is not installed: on Debian, apt-get install pgbouncer")
    url = make_url(server)
    port = free_port(None)
    # It may not run as root, and nobody must reach its files.
    folder = Path(tempfile.mkdtemp(prefix="kdhpc-pgbouncer-", dir="/tmp"))
    try:
        config = _write_config(folder, url, port=port, sessions=sessions, clients=clients)
        _raise_open_files(clients + sessions + 100)
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        with (folder / "stderr").open("w") as log:
            process = subprocess.Popen([program, "-q", *account, config], stdout=log, stderr=log, cwd=folder)
        try:
            _wait_until_it_listens(process, port, folder)
            yield url.set(host="127.0.0.1", port=port, password=_password(url), query={}).render_as_string(
                hide_password=False
            )
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


def _write_config(folder: Path, url: URL, *, port: int, sessions: int, clients: int) -> Path:
    users, config = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{url.username}" "{_password(url)}"\n')
    config.write_text(f"""\
[databases]
{url.database} = host={url.host} port={url.port} dbname={url.database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = {clients}
logfile = {folder}/log
pidfile =
""")
    for path in (folder, users, config):
        path.chmod(0o700 if path is folder else 0o600)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return config


def _password(url: URL) -> str:
    """That of the URL, or of the password file that it names."""
    if url.password is not None:
        return url.password
    first = Path(str(url.query["passfile"])).read_text().splitlines()[0]
    return first.rpartition(":")[2].replace("\\:", ":").replace("\\\\", "\\")


def _raise_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise DatabaseError(f"pgbouncer does not start: {(folder / 'stderr').read_text()[-500:]}") from exc
            time.sleep(0.02)
