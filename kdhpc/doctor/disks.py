"""Where files are written: room, locks, and whether what was written is kept."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kdhpc.config.paths import data_root, runs_root
from kdhpc.doctor.finding import Finding, absent, fault, ok
from kdhpc.errors import StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.removing import remove
from kdhpc.files.writing import write_whole
from kdhpc.interpreter import child_python_words
from kdhpc.server.mounts import file_system, is_local

_LEAST_BYTES = 2**30
_LEAST_FILES = 1000
_TRIES = 5
_TAKE = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(0)
sys.exit(1)
"""
"""In another process: exit 0 if the lock cannot be had."""


def check_disks() -> Iterator[Finding]:
    """The folders that kdhpc writes to."""
    yield _check_folder("runs", runs_root())
    yield _check_folder("data", data_root())
    yield _check_folder("temporary files", Path(tempfile.gettempdir()))
    yield check_locks()


def _check_folder(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        system = file_system(there.resolve())
        found = os.statvfs(there)
    except OSError as exc:
        return fault(name, f"{there}: {exc.strerror}")
    where = f"{folder} ({system or 'unknown file system'})"
    if not os.access(there, os.W_OK | os.X_OK):
        return fault(name, f"{where}: {there} is closed to this user", _elsewhere(name))
    free = found.f_bavail * found.f_frsize
    words = f"{where}: {free / 1e9:.1f} GB free"
    if free < _LEAST_BYTES:
        return fault(name, words, f"make room, or {_elsewhere(name)}")
    if found.f_files and found.f_favail < _LEAST_FILES:
        return fault(name, f"{words}, but only {found.f_favail} more files", f"remove files, or {_elsewhere(name)}")
    return ok(name, words if folder.exists() else f"{words}; not made yet")


def check_locks() -> Finding:
    """Whether a lock in the runs folder keeps another process out, and how long a file takes to be on the disk."""
    folder = runs_root()
    if not folder.exists():
        return absent("locks", f"{folder} is not made yet: nothing to lock there")
    path = folder / f".doctor-{os.getpid()}"
    try:
        lock = FileLock.take(path)
        if lock is None:
            return fault("locks", f"{path} is locked by another process", "remove it")
        with lock:
            if lock.problem is not None:
                return fault("locks", f"{folder} has no file locks ({lock.problem})", _without_locks(folder))
            other = subprocess.run([*child_python_words(), "-c", _TAKE, path], capture_output=True, check=False)
            if other.returncode != 0:
                return fault("locks", f"{folder}: two processes had the same lock at once", _without_locks(folder))
        seconds = statistics.median(_written_in(path) for _ in range(_TRIES))
    except StorageError as exc:
        return fault("locks", str(exc), _elsewhere("runs"))
    finally:
        remove(path)
    return ok("locks", f"{folder}: locks work on this machine; a file is on the disk in {1000 * seconds:.1f} ms")


def _written_in(path: Path) -> float:
    begin = time.perf_counter()
    write_whole(path, b"kdhpc\n")
    return time.perf_counter() - begin


def _elsewhere(name: str) -> str:
    variable = {"runs": "KDHPC_RUNS", "data": "KDHPC_DATA"}.get(name, "TMPDIR")
    return f"name another folder in {variable}"


def _without_locks(folder: Path) -> str:
    if is_local(file_system(folder.resolve())):
        return "name a folder of another file system in KDHPC_RUNS"
    return "name a folder of another file system in KDHPC_RUNS, or start the database on one machine only"
