"""Fashion-MNIST: the four official IDX files, packed by gzip or not.

Source: https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.progress import Progress
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts
from kdhpc.errors import DataError
from kdhpc.files import read_whole

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_LAYOUTS = (Layout(files=tuple(f"{name}.gz" for name in _FILES)), Layout(files=_FILES))
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_UNSIGNED_BYTE = 8
_OFFICIAL = Counts(classes=10, train=60_000, test=10_000)


@dataclass(frozen=True, kw_only=True)
class FashionMnistReader:
    """Reads Fashion-MNIST; images are grey, 28x28."""

    expected: Counts = _OFFICIAL
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """Reads a folder that holds the four files.

        Raises:
            DataError: a file is missing or damaged.
        """
        train_images, train_labels, test_images, test_labels = locate(source, _LAYOUTS, scratch, progress).paths
        return ArraySource(
            classes=_CLASSES, train=_split(train_images, train_labels), test=_split(test_images, test_labels)
        )


def _split(images_path: Path, labels_path: Path) -> ArraySplit:
    images, labels = _idx(images_path, dimensions=3), _idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images):,} images, but {labels_path.name} has {len(labels):,} labels")
    return ArraySplit(images=images[..., None], labels=labels.astype(np.int64))


def _idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Reads an IDX file: two zero bytes, the type, the number of dimensions, each as a big-endian int32, the bytes."""
    content = _content(path)
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions: get it again")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">i4", count=dimensions, offset=4))
    if len(content) - header != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} has {len(content) - header:,} bytes of data, its header says {shape}: get it again")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = read_whole(path)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path} is damaged ({exc}): get it again") from exc
