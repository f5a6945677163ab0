"""Locks on files, also where a file system has none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.errors import StorageError
from kdhpc.files.locking import FileLock
from tests.faults import FaultyDisk

_HOLD = "import sys; sys.stdin.read()"


def test_lock_lives_as_long_as_a_child_has_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with FileLock.take(path) as lock:
        assert lock is not None
        assert lock.problem is None
        assert FileLock.take(path) is None
        child = subprocess.Popen(
            [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),), text=True
        )
    assert FileLock.take(path) is None, "the child has it"
    child.communicate("")
    with FileLock.take(path) as again:
        assert again is not None


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_lock_where_the_file_system_has_none_says_why(disk: FaultyDisk, error: str) -> None:
    disk.rules(f"flock * err={error}")
    with FileLock.take(disk.path / "lock", wait=True) as lock:
        assert lock is not None
        assert lock.problem == os.strerror(getattr(errno, error))


def test_lock_file_that_cannot_be_made_is_named(disk: FaultyDisk) -> None:
    disk.rules("create * err=EROFS")
    with pytest.raises(StorageError, match="lock cannot be opened: Read-only file system"):
        FileLock.take(disk.path / "lock")
