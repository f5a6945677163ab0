"""What a reader hands on: class names, and the official training and test halves, not yet packed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.progress import Progress
from kdhpc.errors import DataError
from kdhpc.files import read_whole


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images and classes a data set has."""

    classes: int
    """Classes."""
    train: int
    """Training images."""
    test: int
    """Test images."""

    def __str__(self) -> str:
        return f"{self.train:,} training and {self.test:,} test images in {self.classes:,} classes"


@dataclass(frozen=True, kw_only=True)
class ArraySplit:
    """Images that are decoded and of one size already."""

    images: NDArray[np.uint8]
    """(N, H, W, C), C = 1 or 3."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1."""


@dataclass(frozen=True, kw_only=True)
class FileSplit:
    """Images in files, of any format and size."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below ``root``."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1."""


@dataclass(frozen=True, kw_only=True)
class ArraySource:
    """A data set whose images come decoded."""

    classes: tuple[str, ...]
    """Names, by label."""
    train: ArraySplit
    """The official training half."""
    test: ArraySplit
    """The official test half."""


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A data set whose images are files."""

    classes: tuple[str, ...]
    """Names, by label."""
    train: FileSplit
    """The official training half."""
    test: FileSplit
    """The official test half."""


Source = ArraySource | FileSource


class Reader(Protocol):
    """Knows one published format."""

    @property
    def expected(self) -> Counts | None:
        """The official counts; none: any are right."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> Source:
        """Reads a file or folder.

        Args:
            source: what the user named.
            scratch: a folder for what has to be unpacked; it is deleted when the data set is packed.
            progress: told about anything that takes long or is left out.

        Raises:
            DataError: it is not what it should be.
            StorageError: a file system refuses to read the source, or to write what has to be unpacked.
        """


def check_source(source: Source, expected: Counts | None, *, origin: str) -> None:
    """Checks that a source is a data set: right counts, no empty or doubled class, no image in both halves.

    Args:
        source: what a reader found.
        expected: the official counts; none: any.
        origin: what the user named, for messages.

    Raises:
        DataError: with the counts, classes or images that are wrong.
    """
    found = Counts(classes=len(source.classes), train=len(source.train.labels), test=len(source.test.labels))
    if expected is not None and found != expected:
        raise DataError(f"{origin} has {found}, but the official data set has {expected}: get the official files again")
    twice = sorted({name for name in source.classes if source.classes.count(name) > 1})
    if twice:
        raise DataError(f"{origin} names classes twice: {first_few(twice)}")
    for half, labels in (("training", source.train.labels), ("test", source.test.labels)):
        check_labels(labels, source.classes, half=half, origin=origin)
    if isinstance(source, FileSource):
        both = sorted(_paths(source.train) & _paths(source.test))
        if both:
            raise DataError(f"{origin} has {len(both):,} images in both training and test: {first_few(both)}")


def check_labels(labels: NDArray[np.int64], classes: tuple[str, ...], *, half: str, origin: str) -> None:
    """Checks that labels name classes, and that each class has an image.

    Raises:
        DataError: with the labels or classes that are wrong.
    """
    counts = np.bincount(labels[(labels >= 0) & (labels < len(classes))], minlength=len(classes))
    if counts.sum() != len(labels):
        wrong = sorted({int(label) for label in labels if not 0 <= label < len(classes)})
        raise DataError(f"{origin} has {half} labels {first_few(map(str, wrong))}: allowed are 0 to {len(classes) - 1}")
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"{origin} has no {half} image of {len(empty)} of {len(classes)} classes: {first_few(empty)}")


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Names for a message that has to stay one line: at most ``limit``, then how many more."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: it cannot be read as text.
        StorageError: the file system refuses to read it.
    """
    try:
        return [line for line in read_whole(path).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc


def _paths(split: FileSplit) -> set[str]:
    return {str(split.root / name) for name in split.names}
