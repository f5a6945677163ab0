"""Servers of other machines, as far as their records tell; and which processes work on a data folder."""

from dataclasses import replace
from pathlib import Path

from kdhpc.server.proof import last_server
from kdhpc.server.record import RUNNING, FolderIdentity, ServerRecord, update


def pretend_elsewhere(folder: Path, *, node: str = "elsewhere", pid: int = 2**22 - 1) -> ServerRecord:
    """Let the last server be one of another machine on a shared file system, which does not answer."""
    record = last_server(folder)
    assert record is not None
    identity = replace(FolderIdentity.of(folder), file_system="nfs4", has_locks=True)
    elsewhere = replace(
        record,
        state=RUNNING,
        node=node,
        pid=pid,
        space="another-boot pid:[1]",
        host="127.0.0.1",
        port=9,
        folder=identity,
    )
    update(folder, elsewhere)
    return elsewhere


def postgres_processes(folder: Path) -> set[int]:
    """Process ids of all first processes of PostgreSQL on a data folder, in whatever container."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            works_here = (process / "cwd").samefile(folder / "data")
        except OSError:
            continue
        if works_here and b"-D" in command:
            found.add(int(process.name))
    return found
