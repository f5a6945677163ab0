"""CIFAR-10 and CIFAR-100: the official archives for Python and for C, or the folders that they unpack to.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.names import shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.pickled import read_pickle
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts, lines_of
from kdhpc.data.reading import read_file
from kdhpc.errors import DataError

_PIXELS = 3 * 32 * 32
_LONGEST_BYTES = 1 << 29


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """The files of one of the two data sets, in one of the two formats."""

    archive: str
    """Official archive."""
    train: tuple[str, ...]
    """Training files, in order."""
    test: str
    """Test file."""
    names: str
    """File of the class names."""

    @property
    def layout(self) -> Layout:
        """All of them, test first."""
        return Layout(files=(self.test, self.names, *self.train), archives=(self.archive,))


@dataclass(frozen=True, kw_only=True)
class CifarReader:
    """Reads CIFAR-10 or CIFAR-100."""

    python: CifarFiles
    """Files of the Python format: pickled dictionaries."""
    binary: CifarFiles
    """Files of the C format: label bytes, then 3,072 pixel bytes, again and again."""
    labels_key: bytes
    """Python format: entry that holds the labels."""
    names_key: bytes
    """Python format: entry that holds the class names."""
    label_bytes: int
    """C format: label bytes before each image; the last one counts."""
    expected: Counts
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """Reads an official archive or its unpacked folder.

        Raises:
            DataError: files missing, damaged, or not of this data set.
        """
        found = locate(source, (self.python.layout, self.binary.layout), scratch, progress)
        test, names, *train = found.paths
        if found.layout == self.python.layout:
            return ArraySource(
                classes=_pickled_names(names, self.names_key),
                train=_joined([_pickled(path, self.labels_key) for path in train]),
                test=_pickled(test, self.labels_key),
            )
        return ArraySource(
            classes=tuple(lines_of(names)),
            train=_joined([_binary(path, self.label_bytes) for path in train]),
            test=_binary(test, self.label_bytes),
        )


CIFAR10 = CifarReader(
    python=CifarFiles(
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        names="batches.meta",
    ),
    binary=CifarFiles(
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
    ),
    labels_key=b"labels",
    names_key=b"label_names",
    label_bytes=1,
    expected=Counts(classes=10, train=50_000, test=10_000),
)

CIFAR100 = CifarReader(
    python=CifarFiles(archive="cifar-100-python.tar.gz", train=("train",), test="test", names="meta"),
    binary=CifarFiles(
        archive="cifar-100-binary.tar.gz", train=("train.bin",), test="test.bin", names="fine_label_names.txt"
    ),
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
    label_bytes=2,
    expected=Counts(classes=100, train=50_000, test=10_000),
)


def _content(path: Path) -> bytes:
    try:
        return read_file(path, limit=_LONGEST_BYTES)
    except OSError as exc:
        raise DataError(f"{path} is not an official CIFAR file: {exc}") from exc


def _dictionary(path: Path) -> dict[object, object]:
    try:
        content = read_pickle(_content(path))
    except ValueError as exc:
        raise DataError(f"{path} is not an official CIFAR file: {shown(str(exc))}") from exc
    if not isinstance(content, dict):
        raise DataError(f"{path} is not an official CIFAR file: it holds a {type(content).__name__}, not a dictionary")
    return content


def _entry(content: dict[object, object], key: bytes, path: Path) -> object:
    for found in (key, key.decode()):
        if found in content:
            return content[found]
    raise DataError(f"{path} is not an official CIFAR file: it has no {key.decode()!r}")


def _pickled(path: Path, labels_key: bytes) -> ArraySplit:
    content = _dictionary(path)
    planes, labels = _entry(content, b"data", path), _labels(_entry(content, labels_key, path), path)
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape != (len(labels), _PIXELS):
        found = f"{planes.dtype} {planes.shape}" if isinstance(planes, np.ndarray) else f"a {type(planes).__name__}"
        raise DataError(f"{path} has {found} for {len(labels):,} images: expected is uint8 (N, {_PIXELS})")
    return ArraySplit(images=_as_images(planes), labels=labels)


def _labels(found: object, path: Path) -> NDArray[np.int64]:
    if isinstance(found, np.ndarray):
        found = found.reshape(-1).tolist()
    if not isinstance(found, list) or not all(type(label) is int and 0 <= label < 1 << 31 for label in found):
        raise DataError(f"{path} is not an official CIFAR file: its labels are not a list of whole numbers")
    return np.array(found, dtype=np.int64)


def _pickled_names(path: Path, key: bytes) -> tuple[str, ...]:
    names = _entry(_dictionary(path), key, path)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise DataError(f"{path} is not an official CIFAR file: {key.decode()!r} is not a list of names")
    return tuple(name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names)


def _binary(path: Path, label_bytes: int) -> ArraySplit:
    record = label_bytes + _PIXELS
    content = np.frombuffer(_content(path), dtype=np.uint8)
    if len(content) == 0 or len(content) % record:
        raise DataError(
            f"{path} has {len(content):,} bytes, not a multiple of {record:,}: it is truncated, get it again"
        )
    rows = content.reshape(-1, record)
    return ArraySplit(images=_as_images(rows[:, label_bytes:]), labels=rows[:, label_bytes - 1].astype(np.int64))


def _as_images(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red, green and blue planes, (N, 3072), to images, (N, 32, 32, 3)."""
    images: NDArray[np.uint8] = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images


def _joined(parts: list[ArraySplit]) -> ArraySplit:
    return ArraySplit(
        images=np.concatenate([part.images for part in parts]), labels=np.concatenate([part.labels for part in parts])
    )
