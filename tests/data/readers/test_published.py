"""Readers know what was published, and say when something else has its names."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from kdhpc.data.packed import PackedDataset
from kdhpc.data.readers.cifar import CIFAR10, CIFAR100, CifarReader
from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.data.readers.fashion_mnist import FashionMnistReader
from kdhpc.data.readers.official import file_md5
from kdhpc.data.readers.registry import READERS
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts, check_source
from kdhpc.data.readers.stanford_dogs import StanfordDogsReader
from kdhpc.errors import DataError
from tests.data.made import pack
from tests.data.trees import (
    silent,
    write_cifar10,
    write_cifar100_binary,
    write_cub,
    write_dogs,
    write_dogs_list,
    write_fashion_mnist,
    write_tar,
)

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_SMALL = Counts(classes=2, train=3, test=2)


@pytest.mark.parametrize(("reader", "other"), [(CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)])
def test_published_checksums_of_cifar_are_torchvisions(reader: CifarReader, other: type[datasets.CIFAR10]) -> None:
    names = other.meta
    assert reader.python.published == dict([*other.train_list, *other.test_list, (names["filename"], names["md5"])])
    assert set(reader.python.published) == {*reader.python.train, reader.python.test, reader.python.names}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar10", Counts(classes=10, train=50_000, test=10_000)),
        ("cifar100", Counts(classes=100, train=50_000, test=10_000)),
        ("fashion_mnist", Counts(classes=10, train=60_000, test=10_000)),
        ("cub200", Counts(classes=200, train=5_994, test=5_794)),
        ("stanford_cars", Counts(classes=196, train=8_144, test=8_041)),
        ("stanford_dogs", Counts(classes=120, train=12_000, test=8_580)),
        ("folder", None),
    ],
)
def test_published_counts_are_those_of_the_papers(name: str, counts: Counts | None) -> None:
    assert READERS[name].expected == counts


@pytest.mark.skipif(not _DEBIAN.exists(), reason="the published files are not on this machine")
def test_published_fashion_mnist_is_what_it_is(tmp_path: Path) -> None:
    """Debian has packed the files anew: their contents are compared."""
    source = FashionMnistReader().read(_DEBIAN, tmp_path, silent())
    assert source.changed == ()
    assert check_source(source, FashionMnistReader().expected, origin="here") == ()


def test_prepare_digits_in_the_place_of_clothes_are_refused(tmp_path: Path) -> None:
    """MNIST's four files have the same names, lengths and numbers of classes."""
    write_fashion_mnist(tmp_path / "raw")
    reader = FashionMnistReader(expected=Counts(classes=10, train=20, test=10))

    with pytest.raises(
        DataError,
        match=r"raw has other content than the official data set in train-images-idx3-ubyte, train-labels.* and "
        r".*: get the official files again, or say --altered|t10k-labels-idx1-ubyte: get the official files again",
    ):
        pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=None)

    manifest = pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=None, altered=True).manifest
    assert manifest.altered == (
        "has other content than the official data set in train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
    )
    assert PackedDataset.open(tmp_path / "fashion").manifest == manifest
    document = json.loads((tmp_path / "fashion" / "manifest.json").read_text())
    del document["altered"]
    (tmp_path / "fashion" / "manifest.json").write_text(json.dumps(document))
    assert PackedDataset.open(tmp_path / "fashion").manifest.altered == (), "as it was written before"


def test_cifar10_other_batches_are_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "c")
    read = dataclasses.replace(
        CIFAR10,
        python=dataclasses.replace(
            CIFAR10.python,
            published={**CIFAR10.python.published, "data_batch_2": file_md5(tmp_path / "c" / "data_batch_2")},
        ),
    )
    changed = read.read(tmp_path, tmp_path / "scratch", silent()).changed
    assert changed == ("test_batch", "batches.meta", *(f"data_batch_{number}" for number in (1, 3, 4, 5)))


def test_cifar100_binary_is_known_by_its_archive(tmp_path: Path) -> None:
    write_cifar100_binary(tmp_path / "cifar-100-binary")
    archive = write_tar(tmp_path / "away" / "cifar-100-binary.tar.gz", tmp_path, "cifar-100-binary")

    assert CIFAR100.read(archive, tmp_path / "scratch", silent()).changed == ("cifar-100-binary.tar.gz",)
    assert CIFAR100.read(tmp_path / "cifar-100-binary", tmp_path / "scratch", silent()).changed == ()


def test_prepare_fewer_images_than_published_are_packed_on_request_and_said(tmp_path: Path) -> None:
    source = write_dogs(tmp_path / "source")
    with pytest.raises(DataError, match=r"official data set has 12,000 .* get the official files again, or say --alt"):
        pack(source, tmp_path / "dogs", reader=StanfordDogsReader())

    manifest = pack(source, tmp_path / "dogs", reader=StanfordDogsReader(), altered=True).manifest

    assert manifest.altered[0].startswith("has 3 training and 2 test images in 2 classes, but the official")
    assert pack(source, tmp_path / "same", reader=StanfordDogsReader(expected=_SMALL)).manifest.altered == ()


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "", "."])
def test_prepare_list_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    source = write_dogs(tmp_path / "source")
    images = [("n01-Chihuahua/n01_1.jpg", 1), (name or " ", 2), ("n02-Whippet/n02_1.jpg", 2)]
    write_dogs_list(source / "lists" / "train_list.mat", images)

    with pytest.raises(DataError, match=r"which is no file of it|gives label 2 to|label \d is"):
        pack(source, tmp_path / "dogs", reader=StanfordDogsReader(expected=_SMALL))


def test_prepare_cub200_image_of_neither_half_is_refused(tmp_path: Path) -> None:
    folder = write_cub(tmp_path) / "CUB_200_2011"
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 2\n5 0\n")
    with pytest.raises(DataError, match=r"train_test_split\.txt has 2 where 0 \(test\) or 1 \(training\) should be"):
        pack(tmp_path, tmp_path / "birds", reader=Cub200Reader(expected=_SMALL), altered=True)


def test_check_source_of_many_classes_takes_no_time_that_grows_with_their_square() -> None:
    num = 40_000
    labels = np.arange(num, dtype=np.int64)
    half = ArraySplit(images=np.zeros((num, 1, 1, 1), np.uint8), labels=labels)
    begin = time.process_time()
    check_source(ArraySource(classes=tuple(map(str, range(num))), train=half, test=half), None, origin="here")
    assert time.process_time() - begin < 5, "half a minute where each name was looked for among all"
