"""Removing what the file system does not let go."""

from kdhpc.files.removing import remove, remove_tree
from kdhpc.files.writing import write_whole
from tests.faults import FaultyDisk


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
