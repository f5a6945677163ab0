"""A folder of classes without a test half: which images become it, and what is refused."""

import io
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from kdhpc.data.packed import TEST_NAMES, PackedDataset, check_content
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.registry import reader_of
from kdhpc.data.readers.source import FileSource, check_source
from kdhpc.errors import DataError, StorageError, UsageError
from tests.data.made import pack
from tests.data.trees import silent, write_jpeg
from tests.users import ordinary_user

_FIFTH = FolderReader(split=0.2)


def _flat(root: Path, **sizes: int) -> Path:
    seed = 0
    for name, num in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(num):
            seed += 1
            write_jpeg(root / name / f"{index:03}.jpg", seed, height=20 + seed % 7)
    return root


def _read(source: Path, split: float = 0.2) -> tuple[FileSource, str]:
    told = io.StringIO()
    read = FolderReader(split=split).read(source, source / "scratch", Progress(told))
    check_source(read, None, origin=str(source))
    return read, told.getvalue()


def _tested(source: FileSource, name: str) -> list[str]:
    return [path for path in source.test.names if path.startswith(f"{name}/")]


def test_split_takes_a_share_of_each_class_and_the_same_every_time(tmp_path: Path) -> None:
    source = _flat(tmp_path / "one", cat=20, dog=10, eel=2)
    first, told = _read(source)
    assert told == ""
    assert [len(_tested(first, name)) for name in ("cat", "dog", "eel")] == [4, 2, 1]
    assert not set(first.train.names) & set(first.test.names)
    assert len(first.train.names) + len(first.test.names) == 32
    assert first.train.labels.tolist() == [0] * 16 + [1] * 8 + [2]
    shutil.move(source, tmp_path / "two")
    assert _read(tmp_path / "two")[0].test.names == first.test.names, "wherever the folder lies"


def test_split_keeps_most_test_images_when_images_are_added(tmp_path: Path) -> None:
    source = _flat(tmp_path, cat=40, dog=40)
    before = set(_read(source)[0].test.names)
    for index in range(40, 44):
        write_jpeg(source / "cat" / f"{index:03}.jpg", index)
    assert len(before - set(_read(source)[0].test.names)) <= 4


def test_split_is_packed_with_a_list_of_its_test_images(tmp_path: Path) -> None:
    source = _flat(tmp_path / "pets", cat=10, dog=5)
    packed = pack(source, tmp_path / "data" / "pets", reader=_FIFTH)
    assert (packed.manifest.train, packed.manifest.test, packed.manifest.split) == (12, 3, 0.2)
    listed = (tmp_path / "data" / "pets" / TEST_NAMES).read_text().splitlines()
    assert tuple(listed) == FolderReader(split=0.2).read(source, tmp_path, silent()).test.names
    assert PackedDataset.open(tmp_path / "data" / "pets").manifest == packed.manifest
    assert not pack(source, tmp_path / "data" / "pets", reader=_FIFTH).made
    with pytest.raises(DataError, match=r"is prepared already, with --split 0\.2 and not --split 0\.3: --force"):
        pack(source, tmp_path / "data" / "pets", reader=FolderReader(split=0.3))
    (tmp_path / "data" / "pets" / TEST_NAMES).write_text("\n".join(reversed(listed)) + "\n")
    with pytest.raises(DataError, match=r"test/names\.txt has changed"):
        check_content(tmp_path / "data" / "pets", silent())


def test_split_keeps_copies_in_one_half(tmp_path: Path) -> None:
    source = _flat(tmp_path, cat=10, dog=10)
    for index in range(10):
        shutil.copy(source / "cat" / f"{index:03}.jpg", source / "cat" / f"{index:03} (1).jpg")
    os.link(source / "dog" / "000.jpg", source / "dog" / "again.jpg")
    read, told = _read(source)
    assert {name.replace(" (1)", "") for name in _tested(read, "cat")} == {
        name for name in _tested(read, "cat") if "(1)" not in name
    }
    assert len(_tested(read, "cat")) == 4
    assert "copies of other images of their class, which stay in one half with them: cat/000" in told


def test_split_refuses_classes_with_a_single_image_in_one_line(tmp_path: Path) -> None:
    source = _flat(tmp_path, cat=4, dog=1, eel=1)
    with pytest.raises(
        DataError, match=r"2 classes with a single image, and --split needs one to learn from.*: dog, eel"
    ):
        _read(source)
    shutil.copy(source / "dog" / "000.jpg", source / "dog" / "copy.jpg")
    write_jpeg(source / "eel" / "more.jpg", 90)
    with pytest.raises(DataError, match="1 class with a single image"):
        _read(source)


def test_split_refuses_empty_classes_in_one_line(tmp_path: Path) -> None:
    source = _flat(tmp_path, cat=4, dog=4)
    (source / "eel").mkdir()
    (source / "fox").mkdir()
    (source / "fox" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"2 classes without an image in .*: eel, fox; remove them everywhere"):
        _read(source)


def test_split_says_one_line_for_each_kind_of_strange_thing(tmp_path: Path) -> None:
    source = _flat(tmp_path, cat=4, Cat=4, dog=4)
    for name in ("cat", "Cat", "dog"):
        (source / name / "notes.txt").write_text("x")
        (source / name / ".hidden.jpg").write_text("x")
        (source / name / ".ipynb_checkpoints").mkdir()
        write_jpeg(source / name / "deeper" / "a.jpg", sum(map(ord, name)))
        write_jpeg(source / name / "000.JPG", 60 + sum(map(ord, name)))
        (source / name / "link.jpg").symlink_to("001.jpg")
    write_jpeg(source / "stray.jpg", 1)
    (source / "readme.md").write_text("x")
    read, told = _read(source)
    assert read.classes == ("Cat", "cat", "dog")
    assert len(read.train.names) + len(read.test.names) == 18
    kinds = sorted(line.split(":")[0] for line in told.splitlines())
    assert kinds == [
        "classes whose names differ by case alone, each is a class of its own",
        "files whose names differ by case alone, all are read",
        "folders in a class folder, whose images count to the class",
        "left out, files images of no class",
        "left out, files not images by their names",
        "left out, folders hidden, or left behind by others",
        "left out, links to what the class has already",
    ]
    assert "Cat and cat" in told


@pytest.mark.parametrize("half", ["train", "test", "val"])
def test_split_of_a_folder_that_has_halves_is_refused(tmp_path: Path, half: str) -> None:
    source = _flat(tmp_path, **{half: 3, "dog": 3})
    with pytest.raises(DataError, match=rf"has {half} already, and --split is for a folder of classes: leave --split"):
        _read(source)


def test_split_of_a_folder_around_the_classes_names_the_inner_one(tmp_path: Path) -> None:
    _flat(tmp_path / "pets" / "pets", cat=3, dog=3)
    with pytest.raises(DataError, match=r"has one folder alone, which holds folders itself: name .*/pets/pets if"):
        _read(tmp_path / "pets")


def test_folder_of_classes_without_split_says_the_command(tmp_path: Path) -> None:
    source = _flat(tmp_path / "pets", cat=3, dog=3)
    with pytest.raises(
        DataError, match=rf"for {source}/<class>/\* alone: kdhpc data prepare folder {source} --split 0"
    ):
        FolderReader().read(source, tmp_path, silent())
    (source / "train").mkdir()
    for name in ("cat", "dog"):
        (source / name).rename(source / "train" / name)
    with pytest.raises(DataError, match=rf"kdhpc data prepare folder {source}/train --split 0\.2 --name NAME"):
        FolderReader().read(source, tmp_path, silent())


@pytest.mark.parametrize("split", [0.0, 1.0, -0.2, 20.0, float("nan")])
def test_split_that_is_no_share_is_refused(split: float) -> None:
    with pytest.raises(UsageError, match=r"--split \S+ is not allowed: give the test images' share, as 0\.2"):
        reader_of("folder", split)


def test_split_of_a_published_data_set_is_refused() -> None:
    with pytest.raises(UsageError, match="--split is not allowed with cifar10, which has its official test half"):
        reader_of("cifar10", 0.2)


def test_folder_that_may_not_be_read_is_one_line() -> None:
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _flat(folder / "pets", cat=4, dog=4)
        (source / "dog" / "001.jpg").chmod(0)
        folder.chmod(0o755)
        (folder / "data").mkdir()
        (folder / "data").chmod(0o777)
        with ordinary_user(), pytest.raises(StorageError, match=r"dog/001\.jpg cannot be read: Permission denied") as e:
            pack(source, folder / "data" / "pets", reader=_FIFTH)
        assert "\n" not in str(e.value)
