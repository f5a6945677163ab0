"""Files on a disk that fails: each fault that a shared file system is known for, and what comes of it."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.errors import StorageError
from kdhpc.files import (
    FileLock,
    create_alone,
    is_of_storage,
    parse_json,
    read_whole,
    remove,
    remove_tree,
    replacing,
    strict_json,
    write_whole,
)
from tests.faults import FaultyDisk, faulty_disk


def test_write_whole_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_whole(path, "gr", b"\xc3", memoryview(b"\xbc\xc3\x9fe"), mode=0o600)
    assert path.read_text(encoding="utf-8") == "grüße"
    assert path.stat().st_mode & 0o777 == 0o600
    write_whole(path, "other")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "rule",
    [
        "write,flush,fsync * late=EDQUOT",
        "flush * late=EDQUOT",
        "fsync * late=EDQUOT",
        "write * late=EDQUOT",
        "write * err=ENOSPC",
        "create * err=EACCES",
        "rename * err=EIO",
        "mkdir * err=EROFS",
    ],
)
def test_write_whole_that_fails_keeps_the_old_file_and_names_it(disk: FaultyDisk, rule: str) -> None:
    old, new = disk.path / "old.json", disk.path / "folder" / "new.json"
    write_whole(old, "old")
    disk.rules(rule)
    for path in (old, new) if "mkdir" not in rule else (new,):
        with pytest.raises(StorageError) as error:
            write_whole(path, "new" * 1000)
        assert str(error.value).startswith(f"{path} cannot be written: ")
    disk.rules()
    assert old.read_text() == "old"
    assert not new.exists()
    assert sorted(entry.name for entry in disk.backing.rglob("*") if entry.is_file()) == ["old.json"]


def test_replacing_asks_when_all_is_on_the_disk_whether_it_may(disk: FaultyDisk) -> None:
    path = disk.path / "a"
    write_whole(path, "newer")
    asked = []
    disk.rules("fsync * delay=200")
    write_whole(path, "older", may_replace=lambda: bool(asked.append(path.read_text())))
    assert (asked, path.read_text()) == (["newer"], "newer")


def test_write_whole_below_a_file_says_that_it_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("x")
    for folder in (tmp_path / "afile", tmp_path / "afile" / "deeper"):
        with pytest.raises(StorageError, match=f"{folder} cannot be made: it, or a part of its path, is a file"):
            write_whole(folder / "new", "x")


def test_replacing_whose_block_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a", "old")]


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


def test_create_alone_knows_what_this_node_does_not_see_yet(faultfs: Path, tmp_path: Path) -> None:
    """One node has looked before the other made the file: it goes on seeing none for half a minute."""
    with (
        faulty_disk(faultfs, tmp_path / "a", options="negative_timeout=30") as one,
        faulty_disk(faultfs, tmp_path / "b", backing=one.backing, options="negative_timeout=30") as other,
    ):
        assert not (other.path / "owner").exists()
        assert create_alone(one.path / "owner", "one")
        assert not (other.path / "owner").exists(), "as such file systems do"
        assert not create_alone(other.path / "owner", "other")
        assert (one.path / "owner").read_text() == "one"


def test_create_alone_that_cannot_be_written_leaves_no_file(disk: FaultyDisk) -> None:
    disk.rules("flush * late=EDQUOT")
    with pytest.raises(StorageError, match="owner cannot be written: Disk quota exceeded"):
        create_alone(disk.path / "owner", "one")
    disk.rules()
    assert create_alone(disk.path / "owner", "one")


def test_remove_tree_goes_by_names_and_leaves_what_is_open(disk: FaultyDisk) -> None:
    folder = disk.path / "folder"
    write_whole(folder / "deep" / "file", "x")
    (folder / "link").symlink_to(disk.path)
    disk.rules("getattr * newino=1")
    assert remove_tree(folder)
    disk.rules()
    assert remove_tree(folder), "there is none"
    write_whole(folder / "deep" / "file", "x")
    with (folder / "deep" / "file").open():
        assert not remove_tree(folder)
        assert [path.name[:12] for path in (folder / "deep").iterdir()] == [".fuse_hidden"]
    assert remove_tree(folder)


def test_remove_that_is_refused_says_so(disk: FaultyDisk) -> None:
    write_whole(disk.path / "a", "x")
    disk.rules("unlink * err=EIO 1")
    assert remove(disk.path / "a")
    assert remove(disk.path / "a"), "there is none"
    write_whole(disk.path / "a", "x")
    disk.rules("unlink * err=EACCES")
    assert not remove(disk.path / "a")


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


def test_is_of_storage_tells_disks_from_mistakes() -> None:
    assert is_of_storage(StorageError("x"))
    assert is_of_storage(OSError(errno.EDQUOT, "x"))
    assert is_of_storage(PermissionError(errno.EACCES, "x"))
    for mistake in (FileNotFoundError(errno.ENOENT, "x"), IsADirectoryError(errno.EISDIR, "x"), ValueError("x")):
        assert not is_of_storage(mistake)


def test_strict_json_has_null_for_numbers_that_are_none() -> None:
    document = {"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf}, "d": None, "e": True}
    text = strict_json(document)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, "x"]],
        "b": {"c": None},
        "d": None,
        "e": True,
    }
    assert parse_json(text) == json.loads(text)
    for broken in ("NaN", '{"a": Infinity}', "{"):
        with pytest.raises(ValueError, match=r"is no JSON|Expecting"):
            parse_json(broken)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_parse_json_refuses_what_is_nested_too_deep_to_mean_something(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(ValueError, match="it is nested too deep"):
        parse_json(opening * depth + "1" + closing * depth)
    assert parse_json("[" * 63 + "]" * 63) is not None
