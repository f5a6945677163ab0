"""Class folders with what others leave in them, links that lead astray, and names that are hard to read."""

import io
import os
import shutil
from pathlib import Path

import pytest

from kdhpc.data.packed import PackedDataset
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.source import FileSource, check_source
from kdhpc.errors import DataError
from tests.data.made import pack
from tests.data.trees import write_folder, write_jpeg


def _read(source: Path) -> tuple[FileSource, str]:
    told = io.StringIO()
    read = FolderReader().read(source, source / "scratch", Progress(told))
    check_source(read, None, origin=str(source))
    return read, told.getvalue()


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".Trash-1000", "@eaDir", "@Recently-Snapshot", "__MACOSX"])
def test_folder_that_others_left_behind_is_no_image_and_no_class(tmp_path: Path, name: str) -> None:
    """Copies of test images in it would be trained on, with any label."""
    source = write_folder(tmp_path / "source")
    pack(source, tmp_path / "data" / "pets")
    for place in ("train/cat", "train/cat/deeper", "train", "test"):
        shutil.copytree(source / "test" / "dog", source / place / name)
        (source / place / name / "0.jpg").rename(source / place / name / "0-checkpoint.jpg")
    write_jpeg(source / "train" / "cat" / "deeper" / "a.jpg", 50)

    read, told = _read(source)

    assert read.classes == ("cat", "dog")
    assert len(read.train.names) == 7
    assert len(read.test.names) == 4
    assert told.count("left out, folders hidden, or left behind by others: ") == 1, "one line for all classes"
    assert f"{source}/train/cat/{name}" in told
    (source / "train" / "cat" / "deeper" / "a.jpg").unlink()
    assert not pack(source, tmp_path / "data" / "pets").made, "nothing that counts has changed"


def test_folder_validation_that_is_a_link_to_test_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path)
    (source / "val").symlink_to("test")

    with pytest.raises(DataError, match=r"4 images in both training and test: test/cat/0\.jpg is val/cat/0\.jpg"):
        _read(source)


@pytest.mark.parametrize("how", ["symbolic", "hard", "folder"])
def test_folder_test_image_that_is_a_training_image_by_a_link_is_refused(tmp_path: Path, how: str) -> None:
    source = write_folder(tmp_path)
    image = source / "train" / "cat" / "1.jpg"
    if how == "symbolic":
        (source / "test" / "cat" / "x.jpg").symlink_to(image)
    elif how == "hard":
        os.link(image, source / "test" / "cat" / "x.jpg")
    else:
        (source / "test" / "cat" / "deeper").symlink_to(image.parent)

    with pytest.raises(DataError, match=r"has \d images in both training and test: test/cat/(x|deeper/\d)\.jpg is tr"):
        _read(source)


def test_folder_image_in_two_classes_by_a_link_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path)
    (source / "train" / "dog" / "x.jpg").symlink_to("../cat/1.jpg")

    with pytest.raises(DataError, match=r"1 images in two classes: train/dog/x\.jpg is train/cat/1\.jpg"):
        _read(source)


def test_folder_links_that_lead_back_multiply_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path)
    cat = source / "train" / "cat"
    (cat / "loop").symlink_to(".")
    (cat / "deeper").mkdir()
    (cat / "deeper" / "up").symlink_to("../..")
    (cat / "again.jpg").symlink_to("0.jpg")
    write_jpeg(cat / "deeper" / "a.jpg", 50)

    with pytest.raises(DataError, match="images in two classes"):  # What is two folders up holds the other class, too.
        _read(source)
    (cat / "deeper" / "up").unlink()
    (cat / "deeper" / "up").symlink_to("..")
    read, told = _read(source)

    assert [name for name in read.train.names if "cat" in name] == [
        *("train/cat/0.jpg", "train/cat/1.jpg", "train/cat/2.jpg"),
        "train/cat/deeper/a.jpg",
    ]
    assert f"left out, links to what the class has already: {cat}/again.jpg, {cat}/deeper/up, {cat}/loop" in told


def test_folder_of_links_into_a_pool_is_read_and_its_changes_are_seen(tmp_path: Path) -> None:
    pool = write_folder(tmp_path / "pool")
    source = tmp_path / "pets"
    for half in ("train", "test"):
        (source / half).mkdir(parents=True)
        (source / half / "cat").symlink_to(pool / half / "cat")
        (source / half / "dog").mkdir()
        for image in (pool / half / "dog").iterdir():
            (source / half / "dog" / image.name).symlink_to(image)

    read, told = _read(source)
    assert (len(read.train.names), len(read.test.names), told) == (6, 4, "")
    assert pack(source, tmp_path / "data" / "pets").made
    assert not pack(source, tmp_path / "data" / "pets").made

    write_jpeg(pool / "train" / "cat" / "new.jpg", 50)
    with pytest.raises(DataError, match="which holds other files now"):
        pack(source, tmp_path / "data" / "pets")


def test_folder_what_belongs_to_no_class_is_said(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    write_jpeg(source / "train" / "0.jpg", 50)
    (source / "Val" / "cat").mkdir(parents=True)
    (source / "train" / "cat" / "ring.jpg").symlink_to("ring.jpg")

    read, told = _read(source)

    assert "train/cat/ring.jpg" in read.train.names  # To be left out, by name, when it is decoded.
    assert f"left out, files images of no class: {source}/train/0.jpg" in told
    assert f"left out, folders neither train, test nor validation: {source}/Val" in told


def test_folder_of_two_validation_halves_asks_which_one_is_meant(tmp_path: Path) -> None:
    source = write_folder(tmp_path)
    for name in ("val", "valid"):
        shutil.copytree(source / "test", source / name)
    with pytest.raises(DataError, match="has valid, val: which one is meant"):
        _read(source)


def test_folder_of_one_class_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one class alone, cat: two or more are needed"):
        pack(write_folder(tmp_path / "source", classes=("cat",)), tmp_path / "pets")


def test_folder_image_named_in_latin_1_is_read_and_its_name_is_shown(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    folder = os.fsencode(source / "train" / "cat")
    os.rename(folder + b"/0.jpg", folder + b"/caf\xe9.jpg")  # noqa: PTH104
    (source / "train" / "cat" / "1.jpg").rename(source / "train" / "cat" / "\x1b[2Jevil\n.jpg")
    Path(os.fsdecode(folder + b"/gone\xe9.jpg")).write_bytes(b"")

    with pytest.raises(DataError, match=r"train/cat/gone\\xe9\.jpg \(an empty file\)"):
        pack(source, tmp_path / "pets")
    manifest = pack(source, tmp_path / "pets", skip_broken=True).manifest
    assert (manifest.train, len(manifest.skipped)) == (6, 1)
    assert PackedDataset.open(tmp_path / "pets").manifest == manifest
    assert not pack(source, tmp_path / "pets").made


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\x1b[31m", b"a\nb", b" ", "a\u202eb".encode()])
def test_folder_class_whose_name_cannot_be_printed_is_refused(tmp_path: Path, name: bytes) -> None:
    source = write_folder(tmp_path, classes=("cat", os.fsdecode(name)))
    with pytest.raises(DataError, match="names of classes that are no printable text in UTF-8: ") as caught:
        _read(source)
    assert str(caught.value).isprintable()


def test_folder_classes_that_differ_only_in_their_unicode_form_are_refused(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    one = write_folder(tmp_path / "one", classes=(composed, "dog"))
    (one / "test" / composed).rename(one / "test" / decomposed)
    with pytest.raises(DataError, match=r"test and .*train name a class in two Unicode forms, 'cafe\\u0301' and 'ca"):
        _read(one)

    other = write_folder(tmp_path / "other", classes=(composed, decomposed))
    with pytest.raises(DataError, match=r"names differ only in their Unicode form: 'cafe\\u0301' and 'caf\\xe9'"):
        _read(other)


def test_folder_class_of_other_scripts_keeps_its_name(tmp_path: Path) -> None:
    names = ("caf\u00e9", "\u65e5\u672c\u3000\u72ac", "\u0645\u06cc\u200c\u0634\u0648\u062f")
    read, _ = _read(write_folder(tmp_path, classes=names))
    assert set(read.classes) == set(names)


def test_progress_escapes_control_characters() -> None:
    told = io.StringIO()
    Progress(told).say("a\x1b]0;title\x07b\udce9")
    assert told.getvalue() == "a\\x1b]0;title\\x07b\\xe9\n"
