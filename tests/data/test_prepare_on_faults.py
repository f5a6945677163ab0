"""Preparing on disks that fail: nothing that is whole is called a failure, and no failure hides behind another."""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdhpc.data.packed import PackedDataset, check_content
from tests.data.made import pack
from tests.data.trees import shown, silent, write_cub, write_folder, write_jpeg, write_tar
from tests.faults import FaultyDisk, faulty_disk

_ROOT = Path(__file__).parents[2]
_HIDDEN = ".fuse_hidden"
_PROPOSALS = ("to train on it: ", "to search on it: ")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The one line that it ended with, before the commands that it proposes."""
        assert "Traceback" not in self.err
        return [line for line in self.err.splitlines() if not line.startswith(_PROPOSALS)][-1]


def _start(data: Path, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kdhpc.cli.main", "data", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "KDHPC_DATA": str(data)},
        cwd=data.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _run(data: Path, *words: object) -> Command:
    process = _start(data, *words)
    out, err = process.communicate(timeout=120)
    return Command(code=process.returncode, out=out, err=err)


def _prepare(data: Path, source: Path, *options: object) -> Command:
    usual = [("--size", 16), ("--jobs", 1)]
    words = [word for name, value in usual if name not in options for word in (name, value)]
    return _run(data, "prepare", "folder", source, "--name", "pets", *words, *options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source")


@pytest.fixture
def data(disk: FaultyDisk) -> Path:
    (disk.path / "data").mkdir()
    return disk.path / "data"


def _is_whole(data: Path) -> bool:
    return check_content(data / "pets", silent()).train == 6


def test_prepare_where_inode_numbers_change(faultfs: Path, tmp_path: Path, source: Path) -> None:
    with faulty_disk(faultfs, tmp_path / "faulty", options="attr_timeout=0,entry_timeout=0") as disk:
        disk.rules("getattr * newino=1")
        data = disk.path / "data"
        data.mkdir()
        for options, said in (((), "is prepared"), ((), "nothing to do"), (("--force",), "is prepared")):
            done = _prepare(data, source, *options)
            assert (done.code, done.out) == (0, f"{data / 'pets'}\n")
            assert said in done.said
            assert shown(data) == ["pets"]
        assert _run(data, "check", "pets").code == 0


def test_prepare_while_somebody_reads_what_it_replaces(data: Path, source: Path) -> None:
    """Their files stay as hidden ones, and the folder with them, for as long as they are open."""
    assert _prepare(data, source).code == 0
    with (data / "pets" / "train" / "images.npy").open("rb") as reader:
        before = reader.read()
        assert _prepare(data, source, "--size", 24, "--force").code == 0
        left = [path.name for path in (data / ".pets.partial").rglob("*") if path.is_file()]
        assert [name[: len(_HIDDEN)] for name in left] == [_HIDDEN]
        for options, said in ((("--size", 24), "nothing to do"), (("--force",), "pets is prepared")):
            done = _prepare(data, source, *options)
            assert (done.code, said in done.said) == (0, True), done.err
        reader.seek(0)
        assert reader.read() == before
    assert _prepare(data, source).code == 0
    assert shown(data) == ["pets"]
    assert _is_whole(data)


@contextmanager
def _kept_open(data: Path) -> Iterator[None]:
    """A hidden file in the folder that `prepare` wants to remove, which is opened by another process."""
    folder = data / ".pets.partial" / "parts"
    folder.mkdir(parents=True)
    (folder / "old.npz").touch()
    with (folder / "old.npz").open("rb"):
        (folder / "old.npz").unlink()
        assert [path.name[: len(_HIDDEN)] for path in folder.iterdir()] == [_HIDDEN]
        yield


def test_prepare_beside_a_hidden_file_ends_well_and_its_errors_are_the_true_ones(data: Path, source: Path) -> None:
    with _kept_open(data):
        wrong = _prepare(data, source.with_name("nowhere"))
        assert (wrong.code, wrong.said) == (
            1,
            f"kdhpc: {source.with_name('nowhere')} does not exist: "
            "name the folder that has train/<class>/* and test/<class>/*",
        )
        assert _prepare(data, source).code == 0
        assert "nothing to do" in _prepare(data, source).said
        assert _is_whole(data)
    assert _prepare(data, source).code == 0
    assert shown(data) == ["pets"]


@pytest.mark.parametrize("rule", ["unlink,rmdir * err=EACCES", "rmdir * err=ENOTEMPTY", "unlink * err=EROFS"])
def test_prepare_where_nothing_can_be_removed(disk: FaultyDisk, data: Path, source: Path, rule: str) -> None:
    disk.rules(rule)

    assert "nowhere does not exist" in _prepare(data, source.with_name("nowhere")).said
    for options in ((), (), ("--force",), ("--force",)):
        assert _prepare(data, source, *options).code == 0
    assert _is_whole(data)


def test_prepare_hides_no_refused_archive_behind_what_cannot_be_removed(
    disk: FaultyDisk, data: Path, tmp_path: Path
) -> None:
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", write_cub(tmp_path / "made"), "CUB_200_2011")
    disk.rules("unlink,rmdir * err=EACCES")

    assert "but the official data set has 5,994 training" in _run(data, "prepare", "cub200", archive).said


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("write,flush,fsync .npz late=EDQUOT", r"parts/train-\S+\.npz cannot be written: Disk quota exceeded"),
        ("flush test/.images late=EDQUOT", r"test/images\.npy cannot be written: Disk quota exceeded"),
        ("write train/.labels err=ENOSPC", r"train/labels\.npy cannot be written: No space left on device"),
        ("write train/.sizes late=ENOSPC", r"train/sizes\.npy cannot be written: what was written is not what is read"),
        ("flush manifest late=EDQUOT", r"manifest\.json cannot be written: Disk quota exceeded"),
        ("create manifest err=EROFS", r"manifest\.json cannot be written: Read-only file system"),
        ("mkdir parts err=ENOSPC", r"parts/train-\S+\.npz cannot be written: No space left on device"),
        ("rename /pets err=ENOSPC", r"packed-\S+ cannot be renamed to \S+/pets: No space left on device"),
    ],
)
@pytest.mark.parametrize("is_new", [True, False])
def test_prepare_on_a_full_disk_names_the_file_and_goes_on_when_there_is_room(
    disk: FaultyDisk, data: Path, source: Path, rule: str, named: str, is_new: bool
) -> None:
    if not is_new:
        pack(source, data / "pets", size=8)
    disk.rules(rule)

    done = _prepare(data, source, "--force")

    assert done.code == 1
    told = rf"kdhpc: preparing {data}/pets stopped: {data}/\.pets\.partial/\S*{named}.*; what is done is kept, run it"
    assert re.match(told, done.said), done.said
    disk.rules()
    if is_new:
        assert not (data / "pets").exists()
    elif "rename" not in rule:  # Which takes the disk's last way to give the name back.
        assert PackedDataset.open(data / "pets").manifest.image_shape == (8, 8, 3)
    assert _prepare(data, source, "--force").code == 0
    assert _is_whole(data)
    assert shown(data) == ["pets"]


def test_prepare_whose_last_step_fails_gives_the_old_name_back(disk: FaultyDisk, data: Path, source: Path) -> None:
    pack(source, data / "pets", size=8)
    disk.rules("rename /pets err=EACCES 1")

    done = _prepare(data, source, "--force")

    assert (done.code, "cannot be renamed to" in done.said) == (1, True)
    assert PackedDataset.open(data / "pets").manifest.image_shape == (8, 8, 3)
    assert _prepare(data, source, "--force").code == 0
    assert PackedDataset.open(data / "pets").manifest.image_shape == (16, 16, 3)
    assert shown(data) == ["pets"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from kdhpc.cli.main import main
from kdhpc.data import staging
move, left = staging.move, int(sys.argv[1])
def killed(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    move(path, target)
staging.move = killed
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("num_moves", "damage", "options", "size"),
    [
        (0, None, (), 8),  # nothing has happened to the old one
        (1, None, (), 16),  # the new one was whole
        (1, None, ("--size", 24, "--force"), 24),
        (1, "packed", (), 8),  # the new one has not come through
        (1, "both", (), None),
    ],
)
def test_prepare_killed_while_names_change_loses_neither(
    disk: FaultyDisk,
    data: Path,
    source: Path,
    num_moves: int,
    damage: str | None,
    options: tuple[object, ...],
    size: int | None,
) -> None:
    pack(source, data / "pets", size=8)
    words = ("data", "prepare", "folder", source, "--name", "pets", "--size", "16", "--jobs", "1", "--force")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(num_moves), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "KDHPC_DATA": str(data)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    assert (data / "pets").exists() == (num_moves == 0)
    for path in (data / ".pets.partial").glob("*/train/labels.npy"):
        if damage == "both" or (damage and path.parts[-3].startswith(damage)):
            path.unlink()

    expected_size = () if size is None or options else ("--size", size)
    done = _run(data, "prepare", "folder", source, "--name", "pets", "--jobs", 1, *expected_size, *options)

    assert done.code == 0, done.err
    found = PackedDataset.open(data / "pets").manifest
    assert found.image_shape[0] == (256 if size is None else size)
    assert ("nothing to do" in done.said) == (not options and size is not None)
    assert _is_whole(data)
    assert shown(data) == ["pets"]


def test_prepare_where_there_are_no_locks_says_so_and_goes_on(disk: FaultyDisk, data: Path, source: Path) -> None:
    disk.rules("flock * err=ENOLCK")

    done = _prepare(data, source)

    assert done.code == 0
    assert f"{data} has no locks (No locks available): do not prepare pets twice at a time" in done.err.splitlines()
    assert _is_whole(data)


def test_prepare_on_two_nodes_whose_locks_do_not_meet_never_mixes_the_two(
    faultfs: Path, tmp_path: Path, source: Path
) -> None:
    with (
        faulty_disk(faultfs, tmp_path / "a", locks="local") as one,
        faulty_disk(faultfs, tmp_path / "b", locks="local", backing=one.backing) as other,
    ):
        one.rules("flush .npy delay=100")
        other.rules("flush .npy delay=80")
        nodes = (one.path / "data", other.path / "data")
        nodes[0].mkdir()
        started = [
            _start(data, "prepare", "folder", source, "--name", "pets", "--size", 16 + 8 * node, "--jobs", 1, "--force")
            for node, data in enumerate(nodes)
        ]
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
        # One may find what it was making gone, and says so.
        assert all(code in (0, 1) and "Traceback" not in err for err, code in ended), ended
        assert 0 in [code for _, code in ended], ended
        assert _prepare(nodes[0], source, "--force").code == 0
        assert _is_whole(nodes[0])


def test_prepare_finds_what_is_there_where_nothing_may_be_written(disk: FaultyDisk, data: Path, source: Path) -> None:
    assert _prepare(data, source).code == 0
    disk.rules("create,openw,mkdir,unlink,rmdir,rename * err=EROFS")

    assert "nothing to do" in _prepare(data, source).said
    done = _prepare(data, source, "--force")
    assert (done.code, "Read-only file system" in done.said) == (1, True)


def _on_disk(disk: FaultyDisk) -> tuple[Path, Path]:
    """A source on the disk that fails, data beside it."""
    data = disk.path.parent / "data"
    data.mkdir()
    return write_folder(disk.path / "pets"), data


@pytest.mark.parametrize("options", [(), ("--skip-broken",), ("--jobs", 2)])
def test_prepare_from_a_disk_that_fails_for_a_moment_leaves_nothing_out(
    disk: FaultyDisk, options: tuple[object, ...]
) -> None:
    source, data = _on_disk(disk)
    disk.rules(
        "open * direct=1",
        "read train/cat/1.jpg err=EIO 1",
        "read test/dog/0.jpg err=ESTALE 1 1",
        "open train/dog/2.jpg err=ESTALE 1",
        "readdir train err=EIO 1",
        "getattr cat err=EIO 1",
    )

    done = _prepare(data, source, *options)

    assert done.code == 0, done.err
    assert "6 training and 4 test images" in done.said
    assert PackedDataset.open(data / "pets").manifest.skipped == ()


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("open train/cat/1.jpg err=EACCES", "train/cat/1.jpg cannot be read: Permission denied"),
        ("read train/dog/0.jpg err=EACCES", "train/dog/0.jpg cannot be read: Permission denied"),
        ("readdir train/dog err=EACCES", "train/dog cannot be read: Permission denied"),
        ("readdir test err=EACCES", "test cannot be read: Permission denied"),
        ("read test/cat/0.jpg err=ESTALE", "test/cat/0.jpg cannot be read: Stale file handle"),
    ],
)
def test_prepare_takes_no_failing_disk_for_a_broken_image(disk: FaultyDisk, rule: str, named: str) -> None:
    source, data = _on_disk(disk)
    disk.rules("open * direct=1", rule)

    done = _prepare(data, source, "--skip-broken")

    assert (done.code, done.said) == (
        1,
        f"kdhpc: preparing {data}/pets stopped: {source}/{named}; what is done is kept, run it again",
    )
    disk.rules()
    assert _prepare(data, source, "--skip-broken").code == 0
    assert PackedDataset.open(data / "pets").manifest.skipped == ()


def test_prepare_still_tells_broken_images(disk: FaultyDisk) -> None:
    source, data = _on_disk(disk)
    path = source / "train" / "cat" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    write_jpeg(source / "train" / "cat" / "9.jpg", 3).write_bytes(b"none")

    done = _prepare(data, source)

    assert "2 of 11: train/cat/1.jpg (image file is truncated" in done.said
    assert "train/cat/9.jpg (not an image;" in done.said


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("read .tgz err=EACCES", "CUB_200_2011.tgz cannot be read: Permission denied"),
        ("read .tgz err=ESTALE", "CUB_200_2011.tgz cannot be read: Stale file handle"),
        ("read .tgz err=EIO -1 1", "CUB_200_2011.tgz cannot be read: Input/output error"),
        ("open .tgz err=EACCES", "CUB_200_2011.tgz cannot be read: Permission denied"),
        ("read .tgz err=EIO 2", "but the official data set has"),
    ],
)
def test_prepare_takes_no_failing_disk_for_a_damaged_archive(disk: FaultyDisk, rule: str, said: str) -> None:
    data = disk.path.parent / "data"
    data.mkdir()
    archive = disk.path / "CUB_200_2011.tgz"
    write_tar(archive, write_cub(disk.path.parent / "made"), "CUB_200_2011")
    disk.rules("open * direct=1", rule)

    done = _run(data, "prepare", "cub200", archive)

    assert done.code == 1
    assert said in done.said
    assert "damaged" not in done.said


def test_prepare_whose_disk_is_full_while_it_unpacks_does_not_blame_the_archive(
    disk: FaultyDisk, data: Path, tmp_path: Path
) -> None:
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", write_cub(tmp_path / "made"), "CUB_200_2011")
    for rule, why in (("write .jpg err=ENOSPC", "No space left"), ("flush .jpg late=EDQUOT", "Disk quota exceeded")):
        disk.rules(rule)
        done = _run(data, "prepare", "cub200", archive)
        assert re.search(rf"\.jpg cannot be written: {why}.*; what is done is kept, run it again$", done.said)
        assert not list(data.rglob("*.jpg")), "half of an archive"
    disk.rules()
    assert "official data set has" in _run(data, "prepare", "cub200", archive).said
    assert tarfile.is_tarfile(archive)


def test_list_and_check_say_what_the_disk_says(disk: FaultyDisk, data: Path, source: Path) -> None:
    assert _prepare(data, source).code == 0
    disk.rules("open pets/test/labels err=EACCES")

    listed, checked = _run(data, "list"), _run(data, "check", "pets")

    assert (listed.code, listed.said) == (0, f"pets: {data}/pets/test/labels.npy cannot be read: Permission denied")
    assert (checked.code, checked.said) == (1, f"kdhpc: {data}/pets/test/labels.npy cannot be read: Permission denied")
