"""Telling a disk's faults from mistakes."""

import errno

from kdhpc.errors import StorageError
from kdhpc.files.storage_errors import is_of_storage


def test_is_of_storage_tells_disks_from_mistakes() -> None:
    assert is_of_storage(StorageError("x"))
    assert is_of_storage(OSError(errno.EDQUOT, "x"))
    assert is_of_storage(PermissionError(errno.EACCES, "x"))
    for mistake in (FileNotFoundError(errno.ENOENT, "x"), IsADirectoryError(errno.EISDIR, "x"), ValueError("x")):
        assert not is_of_storage(mistake)
