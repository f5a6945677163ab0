"""Fashion-MNIST: the four official IDX files, compressed with gzip or not.

Source: https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.progress import Progress
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts, changed_files
from kdhpc.data.reading import read_file
from kdhpc.errors import DataError

_PUBLISHED = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""MD5 sums of the uncompressed files, as some mirrors have compressed them anew.

Only the sums tell these files from those of MNIST's digits, which have the same names and lengths.
"""
_FILES = tuple(_PUBLISHED)
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
_LONGEST_BYTES = 1 << 30
"""Largest size of a file, compressed or not."""
_OFFICIAL = Counts(classes=10, train=60_000, test=10_000)


@dataclass(frozen=True, kw_only=True)
class FashionMnistReader:
    """Reads Fashion-MNIST: grey images of 28x28 pixels."""

    expected: Counts = _OFFICIAL
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """Reads a folder that holds the four files.

        Raises:
            DataError: a file is missing or damaged.
            StorageError: a file system refuses to read the source.
        """
        paths = locate(source, _LAYOUTS, scratch, progress).paths
        contents = [_content(path) for path in paths]
        train_images, train_labels, test_images, test_labels = (
            _idx(path, content, dimensions=1 if "labels" in path.name else 3)
            for path, content in zip(paths, contents, strict=True)
        )
        return ArraySource(
            classes=_CLASSES,
            train=_split(train_images, train_labels, *paths[:2]),
            test=_split(test_images, test_labels, *paths[2:]),
            changed=changed_files(zip(_FILES, contents, strict=True), _PUBLISHED),
        )


def _split(images: NDArray[np.uint8], labels: NDArray[np.uint8], images_path: Path, labels_path: Path) -> ArraySplit:
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images):,} images, but {labels_path.name} has {len(labels):,} labels")
    return ArraySplit(images=images[..., None], labels=labels.astype(np.int64))


def _idx(path: Path, content: bytes, *, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file.

    The format: two zero bytes, a byte for the type, a byte for the number of dimensions, the length of each dimension
    as a big-endian int32, then the values.
    """
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions: get it again")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">i4", count=dimensions, offset=4))
    if min(shape) < 0 or len(content) - header != math.prod(shape):
        raise DataError(f"{path} has {len(content) - header:,} bytes of data, its header says {shape}: get it again")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = read_file(path, limit=_LONGEST_BYTES)
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(_LONGEST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path} is damaged ({exc}): get it again") from exc
    if len(content) > _LONGEST_BYTES:
        raise DataError(f"{path} unpacks to more than {_LONGEST_BYTES:,} bytes: get it again")
    return content
