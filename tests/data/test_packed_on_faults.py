"""Opening packed data on a disk that fails: the true reason, and no word of damage."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.packed import PackedDataset, check_content, prepared_names
from kdhpc.errors import DataError, StorageError
from kdhpc.files import storage_errors
from tests.data.made import pack
from tests.data.trees import silent, write_folder
from tests.faults import FaultyDisk, faulty_disk

_FILES = ["manifest.json", "train/images.npy", "test/labels.npy", "train/sizes.npy"]


@pytest.fixture
def pets(disk: FaultyDisk, tmp_path: Path) -> Path:
    pack(write_folder(tmp_path / "source"), disk.path / "data" / "pets")
    return disk.path / "data" / "pets"


def _said(error: str) -> str:
    return os.strerror(getattr(errno, error))


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
@pytest.mark.parametrize("name", _FILES)
def test_open_tries_again_what_may_pass(disk: FaultyDisk, pets: Path, error: str, name: str) -> None:
    expected = PackedDataset.open(pets)
    disk.rules("open * direct=1", f"open {name} err={error} 1", f"read {name} err={error} 1")

    found = PackedDataset.open(pets)

    assert found.manifest == expected.manifest
    assert (np.asarray(found.train.images) == np.asarray(expected.train.images)).all()
    assert found.test.labels.tolist() == expected.test.labels.tolist()
    assert found.train.sizes.tolist() == expected.train.sizes.tolist()


@pytest.mark.parametrize(("error", "name"), [("EIO", _FILES[0]), ("ESTALE", _FILES[1]), ("EIO", _FILES[2])])
def test_open_that_fails_for_long_says_what_the_disk_says(
    disk: FaultyDisk, pets: Path, monkeypatch: pytest.MonkeyPatch, error: str, name: str
) -> None:
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01))
    disk.rules("open * direct=1", f"read {name} err={error}")

    with pytest.raises(StorageError, match=rf"{pets / name} cannot be read: {_said(error)}$"):
        PackedDataset.open(pets)


@pytest.mark.parametrize("name", _FILES)
def test_open_that_is_not_permitted_says_so(disk: FaultyDisk, pets: Path, name: str) -> None:
    disk.rules(f"open {name} err=EACCES")

    with pytest.raises(StorageError, match=rf"{pets / name} cannot be read: Permission denied$"):
        PackedDataset.open(pets)


def test_open_of_what_cannot_even_be_looked_at_is_not_called_missing(faultfs: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    with faulty_disk(faultfs, tmp_path / "faulty", options="attr_timeout=0,entry_timeout=0") as disk:
        pets = disk.path / "data" / "pets"
        pack(source, pets)
        disk.rules("getattr pets/t err=EACCES")
        with pytest.raises(StorageError, match=rf"{pets}/train/images.npy cannot be read: Permission denied$"):
            PackedDataset.open(pets)
        disk.rules("getattr pets err=EACCES")
        assert prepared_names(pets.parent) == ["pets"]
        disk.rules("getattr pets/t err=ESTALE 2")
        assert PackedDataset.open(pets).manifest.train == 6


def test_open_where_nothing_can_be_mapped(disk: FaultyDisk, pets: Path) -> None:
    disk.rules("open * direct=1")

    assert np.asarray(PackedDataset.open(pets).train.images).shape == (6, 16, 16, 3)


def test_check_content_tells_a_failing_disk_from_a_changed_file(disk: FaultyDisk, pets: Path) -> None:
    disk.rules("open * direct=1", "read test/images.npy err=EIO 2 1")
    assert check_content(pets, silent()).name == "pets"
    disk.rules("open * direct=1", "read test/images.npy err=EACCES -1 1")
    with pytest.raises(StorageError, match=r"test/images\.npy cannot be read: Permission denied"):
        check_content(pets, silent())
    disk.rules()
    path = disk.backing / "data" / "pets" / "test" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="has changed since it was written"):
        check_content(pets, silent())


def test_open_of_what_is_being_made_does_not_call_it_unknown(disk: FaultyDisk, pets: Path) -> None:
    pets.rename(pets.with_name(".pets.partial"))

    with pytest.raises(
        DataError, match="is under way, or was interrupted; in that case run `kdhpc data prepare` again"
    ):
        PackedDataset.open(pets)


def test_prepared_names_of_a_folder_that_cannot_be_listed_are_not_none(disk: FaultyDisk, pets: Path) -> None:
    disk.rules("readdir data err=EACCES")

    with pytest.raises(StorageError, match=r"data cannot be read: Permission denied"):
        prepared_names(pets.parent)
