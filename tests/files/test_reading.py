"""Reading on a disk that fails for a moment, or for good."""

import os
from pathlib import Path

import pytest

from kdhpc.errors import StorageError
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from tests.faults import FaultyDisk


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_read_whole_tries_again_what_may_pass_and_no_longer_than_that(disk: FaultyDisk, error: str) -> None:
    path = disk.path / "a"
    write_whole(path, "content")
    disk.rules(f"open * err={error} 2")
    assert read_whole(path) == b"content"
    disk.rules(f"open * err={error}")
    with pytest.raises(StorageError, match=rf"{path} cannot be read: "):
        read_whole(path)
    with pytest.raises(FileNotFoundError):
        read_whole(disk.path / "nothing")


def test_read_whole_opens_regular_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(OSError, match=f"^it is {kind} and no regular file$"):
            read_whole(path)
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path)
    (tmp_path / "file").write_bytes(b"content")
    assert (read_whole(tmp_path / "file"), read_whole(tmp_path / "file", first=3)) == (b"content", b"con")
