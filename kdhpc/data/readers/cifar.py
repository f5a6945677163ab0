"""CIFAR-10 and CIFAR-100: the official archives for Python and for C, or the folders that they unpack to.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.names import shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.official import Layout, file_md5, locate
from kdhpc.data.readers.pickled import read_pickle
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts, changed_files, lines_of
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
    published: Mapping[str, str]
    """Published MD5 sums in hexadecimal, by file name: of the files, or of the archive if only its sum is known."""

    @property
    def layout(self) -> Layout:
        """The files as a layout: the test file, the class names, then the training files."""
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
    """C format: number of label bytes before each image. The last is the label (CIFAR-100 has a coarse one first)."""
    expected: Counts
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """Reads an official archive or its unpacked folder.

        Raises:
            DataError: files are missing, damaged, or not of this data set.
            StorageError: a file system refuses to read the source, or to write unpacked files.
        """
        found = locate(source, (self.python.layout, self.binary.layout), scratch, progress)
        test, names, *train = found.paths
        contents = {path: _content(path) for path in found.paths}
        if found.layout == self.python.layout:
            return ArraySource(
                classes=_pickled_names(contents[names], names, self.names_key),
                train=_joined([_pickled(contents[path], path, self.labels_key) for path in train]),
                test=_pickled(contents[test], test, self.labels_key),
                changed=changed_files(
                    ((path.name, content) for path, content in contents.items()), self.python.published
                ),
            )
        archives = ((archive.name, file_md5(archive)) for archive in found.archives)
        return ArraySource(
            classes=tuple(lines_of(names)),
            train=_joined([_binary(contents[path], path, self.label_bytes) for path in train]),
            test=_binary(contents[test], test, self.label_bytes),
            changed=tuple(name for name, found in archives if found != self.binary.published.get(name, found)),
        )


CIFAR10 = CifarReader(
    python=CifarFiles(
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        names="batches.meta",
        published={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    binary=CifarFiles(
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        published={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    labels_key=b"labels",
    names_key=b"label_names",
    label_bytes=1,
    expected=Counts(classes=10, train=50_000, test=10_000),
)

CIFAR100 = CifarReader(
    python=CifarFiles(
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test="test",
        names="meta",
        published={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
    binary=CifarFiles(
        archive="cifar-100-binary.tar.gz",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        published={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
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


def _dictionary(packed: bytes, path: Path) -> dict[object, object]:
    try:
        content = read_pickle(packed)
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


def _pickled(packed: bytes, path: Path, labels_key: bytes) -> ArraySplit:
    content = _dictionary(packed, path)
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


def _pickled_names(packed: bytes, path: Path, key: bytes) -> tuple[str, ...]:
    names = _entry(_dictionary(packed, path), key, path)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise DataError(f"{path} is not an official CIFAR file: {key.decode()!r} is not a list of names")
    return tuple(name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names)


def _binary(packed: bytes, path: Path, label_bytes: int) -> ArraySplit:
    record = label_bytes + _PIXELS
    content = np.frombuffer(packed, dtype=np.uint8)
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
