import json
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.packed import PackedDataset, check_content, prepared_names
from kdhpc.data.prepare import PrepareRequest, prepare
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.stored import StoredImages
from kdhpc.errors import DataError
from tests.data.trees import silent, write_folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A packed data set of six training and four test images, 16x16."""
    folder = tmp_path / "data" / "pets"
    source = write_folder(tmp_path / "source")
    prepare(
        PrepareRequest(reader=FolderReader(), reader_name="folder", source=source, folder=folder, size=16), silent()
    )
    return folder


def test_packed_dataset_opens_with_images_on_the_disk_and_the_rest_read_only(pets: Path) -> None:
    dataset = PackedDataset.open(pets)

    assert isinstance(dataset.train.images, StoredImages)
    assert dataset.train.images.shape == (6, 16, 16, 3)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.test.sizes.dtype == np.int32
    assert dataset.classes == ("cat", "dog")
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.labels[0] = 0


def test_packed_dataset_missing_lists_what_is_prepared_and_how_to_prepare(pets: Path) -> None:
    with pytest.raises(DataError, match=r"'pest' is not prepared in .*did you mean 'pets'\? allowed: pets; to prepare"):
        PackedDataset.open(pets.with_name("pest"))


@pytest.mark.parametrize("name", ["train/images.npy", "test/labels.npy", "test/sizes.npy"])
def test_packed_dataset_truncated_file_is_named_with_both_lengths(pets: Path, name: str) -> None:
    path = pets / name
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DataError, match=rf"{name} has {whole - 1:,} bytes, should have {whole:,}"):
        PackedDataset.open(pets)


def test_packed_dataset_missing_file_is_named(pets: Path) -> None:
    (pets / "train" / "labels.npy").unlink()

    with pytest.raises(DataError, match=r"train/labels\.npy is missing: prepare it again"):
        PackedDataset.open(pets)


def _edit(pets: Path, **fields: object) -> None:
    path = pets / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_packed_dataset_of_another_version_is_refused_with_both(pets: Path) -> None:
    _edit(pets, version=2)

    with pytest.raises(DataError, match="version 2 of the packed form, this kdhpc reads version 1"):
        PackedDataset.open(pets)


@pytest.mark.parametrize("fields", [{"format": "zip"}, {"train": "six"}, {"colour": 1}, {"image_shape": [16, 16]}])
def test_packed_dataset_strange_manifest_is_refused(pets: Path, fields: dict[str, object]) -> None:
    _edit(pets, **fields)

    with pytest.raises(DataError, match=r"manifest\.json"):
        PackedDataset.open(pets)


@pytest.mark.parametrize("content", ["", "[1]", '{"format": "kdhpc-packed", "version": 1}', '{"format": "kd'])
def test_packed_dataset_damaged_manifest_is_refused(pets: Path, content: str) -> None:
    (pets / "manifest.json").write_text(content)

    with pytest.raises(DataError, match=r"manifest\.json"):
        PackedDataset.open(pets)


def test_packed_dataset_arrays_of_another_shape_are_refused(pets: Path) -> None:
    _edit(pets, train=5)

    with pytest.raises(DataError, match=r"images\.npy holds uint8 \(6, 16, 16, 3\), the manifest says uint8 \(5, 16"):
        PackedDataset.open(pets)


def test_check_content_finds_one_changed_byte(pets: Path) -> None:
    assert check_content(pets, silent()).checksum == PackedDataset.open(pets).checksum
    path = pets / "train" / "images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    PackedDataset.open(pets)
    with pytest.raises(DataError, match=r"train/images\.npy has changed since it was written"):
        check_content(pets, silent())


def test_check_content_finds_a_changed_class_name(pets: Path) -> None:
    _edit(pets, classes=["cat", "fox"])

    with pytest.raises(DataError, match=r"manifest\.json has changed"):
        check_content(pets, silent())


def test_prepared_names_leave_out_what_is_in_the_making(pets: Path) -> None:
    (pets.parent / ".dogs.partial" / "packed").mkdir(parents=True)
    (pets.parent / ".dogs.partial" / "manifest.json").touch()
    (pets.parent / "raw").mkdir()

    assert prepared_names(pets.parent) == ["pets"]
