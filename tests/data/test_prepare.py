"""What preparing makes of a source, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhpc.data.packed import PackedDataset, check_content
from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.data.readers.fashion_mnist import FashionMnistReader
from kdhpc.data.readers.source import Counts, Reader
from kdhpc.data.readers.stanford_cars import StanfordCarsReader
from kdhpc.data.readers.stanford_dogs import StanfordDogsReader
from kdhpc.errors import DataError, UsageError
from tests.data.made import pack
from tests.data.trees import (
    noise,
    shown,
    silent,
    write_cars_halves,
    write_cars_together,
    write_cub,
    write_dogs,
    write_dogs_list,
    write_fashion_mnist,
    write_folder,
)

_SMALL = Counts(classes=2, train=3, test=2)


@pytest.mark.parametrize(
    ("reader", "write"),
    [
        (StanfordDogsReader(expected=_SMALL), write_dogs),
        (StanfordCarsReader(expected=_SMALL), write_cars_halves),
        (StanfordCarsReader(expected=_SMALL), write_cars_together),
        (Cub200Reader(expected=_SMALL), write_cub),
    ],
)
def test_prepare_fine_grained_sets_keep_labels_and_original_sizes(
    tmp_path: Path, reader: Reader, write: object
) -> None:
    source = write(tmp_path / "source")

    outcome = pack(source, tmp_path / "data" / "small", reader=reader)

    dataset = PackedDataset.open(tmp_path / "data" / "small")
    assert outcome.made
    assert dataset.train.images.shape == (3, 16, 16, 3)
    assert sorted(dataset.test.labels.tolist()) == [0, 1]
    assert dataset.train.sizes.tolist() == [[20, 30]] * 3
    assert dataset.manifest.resized


def test_prepare_wrong_counts_are_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 training and 2 test images in 2 classes, but the official .* 12,000"):
        pack(write_dogs(tmp_path / "source"), tmp_path / "data" / "dogs", reader=StanfordDogsReader())

    assert shown(tmp_path / "data") == []


def test_prepare_image_in_both_halves_is_refused(tmp_path: Path) -> None:
    source = write_dogs(tmp_path / "source")
    write_dogs_list(source / "lists" / "test_list.mat", [("n01-Chihuahua/n01_1.jpg", 1), ("n02-Whippet/n02_2.jpg", 2)])

    with pytest.raises(DataError, match=r"1 images in both training and test: .*n01_1\.jpg"):
        pack(source, tmp_path / "dogs", reader=StanfordDogsReader(expected=_SMALL))


def test_prepare_pixels_are_those_of_the_files_in_order(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", train=3, test=1)

    pack(source, tmp_path / "pets")

    dataset = PackedDataset.open(tmp_path / "pets")
    with Image.open(source / "train" / "dog" / "1.jpg") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
        size = [image.height, image.width]
    assert (np.asarray(dataset.train.images)[4] == expected).all()
    assert dataset.train.sizes[4].tolist() == size
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_prepare_images_of_one_small_size_stay_as_they_are(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for seed, name in enumerate(("a", "b")):
            path = tmp_path / "source" / half / name / "x.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(noise(seed + 10 * len(half), 12, 9)).save(path)

    manifest = pack(tmp_path / "source", tmp_path / "grey", size=None).manifest

    assert manifest.image_shape == (12, 9, 1)
    assert not manifest.resized
    assert (np.asarray(PackedDataset.open(tmp_path / "grey").train.images)[1, ..., 0] == noise(51, 12, 9)).all()


def test_prepare_images_of_many_sizes_are_resized_to_256_unless_told(tmp_path: Path) -> None:
    manifest = pack(write_folder(tmp_path / "source"), tmp_path / "pets", size=None).manifest

    assert manifest.image_shape == (256, 256, 3)


def test_prepare_decoded_arrays_are_stored_as_they_are(tmp_path: Path) -> None:
    images, labels = write_fashion_mnist(tmp_path / "raw")
    reader = FashionMnistReader(expected=Counts(classes=10, train=20, test=10))

    manifest = pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=None, altered=True).manifest

    dataset = PackedDataset.open(tmp_path / "fashion")
    assert manifest.image_shape == (28, 28, 1)
    assert (np.asarray(dataset.train.images)[..., 0] == images[:20]).all()
    assert dataset.test.labels.tolist() == labels[20:].tolist()
    assert dataset.test.sizes.tolist() == [[28, 28]] * 10
    assert check_content(tmp_path / "fashion", silent()) == manifest


def test_prepare_size_for_decoded_arrays_is_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "raw")
    reader = FashionMnistReader(expected=Counts(classes=10, train=20, test=10))

    with pytest.raises(UsageError, match=r"--size 64 is not allowed: .* 28x28"):
        pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=64, altered=True)


def test_prepare_jobs_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", train=70, test=5)

    manifests = [pack(source, tmp_path / f"pets{jobs}", num_jobs=jobs).manifest for jobs in (1, 2)]

    assert manifests[0].files == manifests[1].files
    assert manifests[0].checksum == manifests[1].checksum


@pytest.mark.parametrize("options", [{"size": 0}, {"num_jobs": 0}])
def test_prepare_numbers_below_one_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="0 is not allowed: 1 "):
        pack(tmp_path, tmp_path / "pets", **options)


def test_prepare_manifest_is_json_that_says_what_is_there(tmp_path: Path) -> None:
    pack(write_folder(tmp_path / "source"), tmp_path / "pets")

    manifest = json.loads((tmp_path / "pets" / "manifest.json").read_text())

    assert manifest["image_shape"] == [16, 16, 3]
    assert manifest["classes"] == ["cat", "dog"]
    assert (manifest["train"], manifest["test"]) == (6, 4)
    assert {record["path"]: record["bytes"] for record in manifest["files"]} == {
        str(path.relative_to(tmp_path / "pets")): path.stat().st_size for path in (tmp_path / "pets").glob("*/*.npy")
    }
