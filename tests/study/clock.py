"""A real PostgreSQL on a machine whose clock can be set."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from kdhpc.server.postgres import find_account, installed_programs
from kdhpc.server.process import free_port

_SOURCE = Path(__file__).parents[1] / "shiftedclock.c"


@dataclass(frozen=True)
class ShiftedServer:
    """A server, and by how much its clock is wrong."""

    url: str
    offset: Path

    def set_clock(self, seconds: int) -> None:
        """Let the server's clock be wrong by so many seconds from now on; below 0: behind."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{seconds}\n")
        new.chmod(0o644)
        new.replace(self.offset)


@contextmanager
def shifted_server() -> Iterator[ShiftedServer]:
    """Start a server of its own, in a folder that any account may enter; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="kdhpc-clock-") as name:
        folder, port = Path(name), free_port(None)
        folder.chmod(0o755)
        library, data = folder / "clock.so", folder / "data"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
        account = find_account(installed_programs(), folder)
        data.mkdir(mode=0o700)
        account.own(data)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        options = ("--username=kdhpc", "--auth=trust", "--no-sync")
        initdb = account.command("initdb", "-D", str(data), *options)
        subprocess.run(initdb, check=True, cwd="/", env=environment, capture_output=True)
        server = ShiftedServer(f"postgresql://kdhpc@127.0.0.1:{port}/postgres", folder / "offset")
        server.set_clock(0)
        settings = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        process = subprocess.Popen(
            account.command("postgres", "-D", str(data), *(part for item in settings for part in ("-c", item))),
            cwd="/",
            env={**environment, "LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(server.offset)},
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(server.url)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _await(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg2.connect(url).close()
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
