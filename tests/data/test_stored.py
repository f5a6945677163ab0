"""Images read from a file, on disks that fail while they are read."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdhpc.data.store import DiskImages, ResidentImages, StreamedImages
from kdhpc.data.stored import StoredImages
from kdhpc.errors import DataError, StorageError
from kdhpc.files import storage_errors
from tests.data.trees import noise
from tests.faults import FaultyDisk

_IMAGES = noise(5, 40, 6, 5, 3)


def _saved(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", _IMAGES)
    return folder / "images.npy"


def test_stored_images_are_those_of_the_array_in_any_order(tmp_path: Path) -> None:
    stored = StoredImages(_saved(tmp_path))

    assert stored.shape == _IMAGES.shape
    for rows in ([3], [], [39, 0, 0, 1, 2, 38], list(range(40)), [7, 7, 8, 9, 20, 19]):
        chosen = np.array(rows, dtype=np.int64)
        assert (stored[chosen] == _IMAGES[chosen]).all()
    assert (stored[5:9] == _IMAGES[5:9]).all()
    assert (np.asarray(stored) == _IMAGES).all()
    for rows in ([-1], [40], [3, 41]):
        with pytest.raises(IndexError, match="of 40"):
            stored[np.array(rows, dtype=np.int64)]


@pytest.mark.parametrize("kind", [DiskImages, ResidentImages, StreamedImages])
def test_stores_give_out_the_same_images_from_the_disk_as_from_memory(
    tmp_path: Path, kind: type[DiskImages] | type[ResidentImages] | type[StreamedImages]
) -> None:
    indices, positions = np.array([5, 2, 39, 11, 12], dtype=np.int64), torch.tensor([4, 0, 3, 2])
    device = () if kind is DiskImages else (torch.device("cpu"),)

    found, expected = (
        torch.cat([store.gather(streamed) for streamed in store.stream(positions, 3)])
        for store in (kind(images, indices, *device) for images in (StoredImages(_saved(tmp_path)), _IMAGES))
    )

    assert torch.equal(found, expected)
    assert torch.equal(found, torch.from_numpy(_IMAGES[[12, 5, 11, 39]]))


@pytest.mark.parametrize("rule", ["open * direct=1", "open * direct=1; read images.npy delay=1"])
def test_stored_images_need_no_mapping(disk: FaultyDisk, rule: str) -> None:
    path = _saved(disk.path / "pets")
    disk.rules(*rule.split("; "))

    assert (np.asarray(StoredImages(path)) == _IMAGES).all()


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_stored_images_are_read_again_when_the_disk_fails_for_a_moment(
    disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01))
    path = _saved(disk.path / "pets")
    disk.rules("open * direct=1")
    stored, rows = StoredImages(path), np.array([3, 30, 31], dtype=np.int64)
    disk.rules(f"read images.npy err={error} 2")
    assert (stored[rows] == _IMAGES[rows]).all()

    disk.rules(f"read images.npy err={error}")
    with pytest.raises(StorageError, match=rf"{path} cannot be read: {os.strerror(getattr(errno, error))}"):
        stored[rows]
    disk.rules()
    assert (stored[rows] == _IMAGES[rows]).all(), "the process lives, and may go on"


def test_stored_images_of_a_file_that_has_become_shorter_say_so(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    stored = StoredImages(path)
    os.truncate(path, 1000)

    with pytest.raises(DataError, match=r"images\.npy has become shorter since it was opened"):
        np.asarray(stored)


def test_stored_images_refuse_what_is_no_array_of_images(tmp_path: Path) -> None:
    for array in (_IMAGES.astype(np.float32), _IMAGES[0], np.asfortranarray(_IMAGES)):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=r"hold|written column by column"):
            StoredImages(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(b"\0" * 500)
    with pytest.raises(ValueError, match="magic"):
        StoredImages(tmp_path / "a.npy")
