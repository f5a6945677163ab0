"""Writing on a disk that fails: each fault that a shared file system is known for, and what comes of it."""

from pathlib import Path

import pytest

from kdhpc.errors import StorageError
from kdhpc.files.writing import create_alone, replacing, write_whole
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


def test_write_whole_that_need_not_last_is_not_flushed(disk: FaultyDisk) -> None:
    disk.rules("fsync * err=EIO")
    path = disk.path / "folder" / "a"
    with pytest.raises(StorageError):
        write_whole(path, "content")
    write_whole(path, "content", mode=0o400, durable=False)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("content", 0o400)
    assert [entry.name for entry in path.parent.iterdir()] == ["a"]
