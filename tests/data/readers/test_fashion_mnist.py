from pathlib import Path

import pytest

from kdhpc.data.readers.fashion_mnist import FashionMnistReader
from kdhpc.errors import DataError
from tests.data.trees import noise, silent, write_fashion_mnist, write_idx


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_fashion_mnist_official_files_give_grey_images(tmp_path: Path, suffix: str) -> None:
    images, labels = write_fashion_mnist(tmp_path / "raw", suffix)

    source = FashionMnistReader().read(tmp_path, tmp_path / "scratch", silent())

    assert source.train.images.shape == (20, 28, 28, 1)
    assert (source.train.images[..., 0] == images[:20]).all()
    assert source.test.labels.tolist() == labels[20:].tolist()
    assert source.classes[0] == "T-shirt/top"
    assert len(source.classes) == 10


def test_fashion_mnist_truncated_gzip_is_refused_by_name(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        FashionMnistReader().read(tmp_path, tmp_path / "scratch", silent())


def test_fashion_mnist_short_data_is_refused_with_both_lengths(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, "")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(DataError, match=r"has 15,670 bytes of data, its header says \(20, 28, 28\)"):
        FashionMnistReader().read(tmp_path, tmp_path / "scratch", silent())


def test_fashion_mnist_labels_in_place_of_images_are_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, "")
    write_idx(tmp_path / "train-images-idx3-ubyte", noise(0, 20))

    with pytest.raises(DataError, match="not an IDX file of bytes in 3 dimensions"):
        FashionMnistReader().read(tmp_path, tmp_path / "scratch", silent())


def test_fashion_mnist_fewer_labels_than_images_are_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, "")
    write_idx(tmp_path / "train-labels-idx1-ubyte", noise(0, 19))

    with pytest.raises(DataError, match="20 images, but train-labels-idx1-ubyte has 19 labels"):
        FashionMnistReader().read(tmp_path, tmp_path / "scratch", silent())
