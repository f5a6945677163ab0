"""Data sets in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

import kdhpc
from kdhpc.api.data import dataset_group, open_data
from kdhpc.config.paths import packed_dir
from kdhpc.data.memory import write_packed
from kdhpc.data.packed import PackedDataset, check_content
from kdhpc.errors import DataError
from tests.api.conftest import SETTINGS, make_images
from tests.data.trees import silent


class _Pictures(Dataset):
    """As torchvision's data sets."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.classes = ["dark", "light"]
        self._images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self._labels = labels.tolist()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self._images[index], self._labels[index]


def test_pairs_and_datasets_of_the_same_images_are_the_same() -> None:
    images, labels = make_images(40)
    test = make_images(20, seed=1)
    pair = open_data((images, labels), test, ["dark", "light"])
    arrays = open_data((images.numpy(), labels.tolist()), test, ["dark", "light"])
    pictures = open_data(_Pictures(images, labels), _Pictures(*test), None)
    tensors = open_data(TensorDataset(images, labels), TensorDataset(*test), ["dark", "light"])
    assert len({packed.checksum for packed in (pair, arrays, pictures, tensors)}) == 1
    assert pictures.classes == ("dark", "light")
    np.testing.assert_array_equal(pair.train.images, images.permute(0, 2, 3, 1))
    assert (pair.manifest.train, pair.manifest.test) == (40, 20)


def test_data_in_memory_and_packed_have_one_checksum(folder: Path) -> None:
    packed = open_data(make_images(40), None, None)
    place = packed_dir(packed.manifest.name)
    assert write_packed(packed, place, silent())
    assert not write_packed(packed, place, silent())
    assert check_content(place, silent()).checksum == packed.checksum
    opened = PackedDataset.open(place)
    np.testing.assert_array_equal(np.asarray(opened.train.images), packed.train.images)
    np.testing.assert_array_equal(opened.test.labels, packed.test.labels)


def test_named_data_set_is_trained_on_and_its_test_images_exchanged(folder: Path) -> None:
    data = open_data(make_images(48), make_images(16, seed=1), ["dark", "light"])
    name = data.manifest.name
    write_packed(data, packed_dir(name), silent())
    named = kdhpc.train(kdhpc.dml(1), dataset=name, **SETTINGS)
    assert kdhpc.load(named).classes == ("dark", "light")
    given = kdhpc.train(kdhpc.dml(1), dataset=name, test=make_images(30, seed=2), **SETTINGS)
    assert given.folder != named.folder
    assert given.result.weights == named.result.weights
    with pytest.raises(DataError, match="cannot test what learns from"):
        open_data(name, make_images(30, side=8), None)
    with pytest.raises(DataError, match="classes= has no meaning for a data set that has a name"):
        open_data(name, None, ["a", "b"])


def test_sizes_say_how_images_are_augmented() -> None:
    small, large = (dataset_group(open_data(make_images(40, side=side), None, None)) for side in (16, 128))
    assert (small["augmentation"], small["image_size"], small["pad"]) == ("pad_crop", 16, 2)
    assert (large["augmentation"], large["image_size"], large["resize"]) == ("resized_crop", 112, 128)


def test_pictures_of_many_sizes_are_refused() -> None:
    images, labels = make_images(4)
    pictures = _Pictures(images, labels)
    pictures._images[2] = pictures._images[2].resize((8, 16))
    with pytest.raises(DataError, match=r"dataset\[2\]: it is|dataset\[2\] has an image of 16x8 in 3 channels"):
        open_data(pictures, None, None)
