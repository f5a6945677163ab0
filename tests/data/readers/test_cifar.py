import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.readers.cifar import CIFAR10, CIFAR100
from kdhpc.data.readers.source import ArraySource
from kdhpc.errors import DataError
from tests.data.trees import silent, write_cifar10, write_cifar100_binary, write_tar


def _check_cifar10(source: ArraySource, planes: np.ndarray, labels: list[int]) -> None:
    assert source.classes == ("airplane", "bird")
    assert source.train.labels.tolist() == labels[:10]
    assert source.test.labels.tolist() == labels[10:]
    # Pixel (row 3, column 5), channel 2 of image 7 lies in the third plane.
    assert source.train.images[7, 3, 5, 2] == planes[7, 2 * 1024 + 3 * 32 + 5]
    assert source.test.images.shape == (2, 32, 32, 3)


@pytest.mark.parametrize("named", [".", "cifar-10-batches-py"])
def test_cifar10_python_folder_gives_images_and_labels(tmp_path: Path, named: str) -> None:
    planes, labels = write_cifar10(tmp_path / "cifar-10-batches-py")

    _check_cifar10(CIFAR10.read(tmp_path / named, tmp_path / "scratch", silent()), planes, labels)


@pytest.mark.parametrize("named", [".", "cifar-10-python.tar.gz"])
def test_cifar10_python_archive_gives_images_and_labels(tmp_path: Path, named: str) -> None:
    planes, labels = write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    write_tar(tmp_path / "downloads" / "cifar-10-python.tar.gz", tmp_path / "made", "cifar-10-batches-py")

    _check_cifar10(CIFAR10.read(tmp_path / "downloads" / named, tmp_path / "scratch", silent()), planes, labels)


def test_cifar100_binary_archive_gives_fine_labels(tmp_path: Path) -> None:
    planes, fine = write_cifar100_binary(tmp_path / "cifar-100-binary")
    archive = write_tar(tmp_path / "away" / "cifar-100-binary.tar.gz", tmp_path, "cifar-100-binary")

    source = CIFAR100.read(archive, tmp_path / "scratch", silent())

    assert source.classes == ("apple", "bear")
    assert [*source.train.labels.tolist(), *source.test.labels.tolist()] == fine
    assert source.test.images[1, 31, 30, 0] == planes[5, 31 * 32 + 30]


def test_cifar100_truncated_binary_is_refused_with_its_length(tmp_path: Path) -> None:
    write_cifar100_binary(tmp_path / "c")
    path = tmp_path / "c" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DataError, match=r"train\.bin has 12,295 bytes, not a multiple of 3,074"):
        CIFAR100.read(tmp_path, tmp_path / "scratch", silent())


class _Opener:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("print('run')",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10_pickle_that_calls_code_is_refused(tmp_path: Path, protocol: int) -> None:
    write_cifar10(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps({b"data": _Opener(), b"labels": []}, protocol=protocol))

    with pytest.raises(DataError, match=r"data_batch_3 is not an official CIFAR file.*eval"):
        CIFAR10.read(tmp_path, tmp_path / "scratch", silent())


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2]), pickle.dumps({b"data": 1})])
def test_cifar10_damaged_batch_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    write_cifar10(tmp_path / "c")
    (tmp_path / "c" / "test_batch").write_bytes(content)

    with pytest.raises(DataError, match="test_batch"):
        CIFAR10.read(tmp_path, tmp_path / "scratch", silent())


def test_cifar10_damaged_archive_is_refused_by_name(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    archive = write_tar(tmp_path / "cifar-10-python.tar.gz", tmp_path / "made", "cifar-10-batches-py")
    archive.write_bytes(archive.read_bytes()[:5000])

    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged"):
        CIFAR10.read(archive, tmp_path / "scratch", silent())


def test_cifar10_elsewhere_is_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not hold the official files.*cifar-10-python\.tar\.gz"):
        CIFAR10.read(tmp_path, tmp_path / "scratch", silent())


def test_cifar10_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        CIFAR10.read(tmp_path / "nowhere", tmp_path / "scratch", silent())


def test_cifar10_arrays_of_numpy_1_and_2_are_read(tmp_path: Path) -> None:
    planes, labels = write_cifar10(tmp_path / "c")
    path = tmp_path / "c" / "data_batch_1"
    found = path.read_bytes()
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in found) != (old in found)
    path.write_bytes(found.replace(new, old) if new in found else found.replace(old, new))

    _check_cifar10(CIFAR10.read(tmp_path, tmp_path / "scratch", silent()), planes, labels)


def test_cifar_readers_expect_the_official_counts() -> None:
    assert str(CIFAR10.expected) == "50,000 training and 10,000 test images in 10 classes"
    assert dataclasses.replace(CIFAR10.expected, classes=100) == CIFAR100.expected
