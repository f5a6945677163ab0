"""What a reader hands on: class names, and the official training and test halves, not yet packed."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.names import alike, is_text, shown
from kdhpc.data.progress import Progress
from kdhpc.data.reading import read_file, read_from
from kdhpc.errors import DataError

_LONGEST_LIST = 1 << 28
"""Bytes of a text file."""


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
    changed: tuple[str, ...] = ()
    """Files that are not those that were published."""


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
        """The published counts; None: any are right."""

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


def check_source(source: Source, expected: Counts | None, *, origin: str, altered: bool = False) -> tuple[str, ...]:
    """Checks that a source is a data set, and the published one where one is expected.

    Two classes at least, none empty, no two of one name; no image in both halves or in two classes, by whatever links.

    Args:
        source: what a reader found.
        expected: the published counts; None: any.
        origin: what the user named, for messages.
        altered: it need not be as published.

    Returns:
        How it differs from what was published.

    Raises:
        DataError: with the counts, classes or images that are wrong.
        StorageError: a file system refuses to tell where a link leads.
    """
    found = Counts(classes=len(source.classes), train=len(source.train.labels), test=len(source.test.labels))
    differences: list[str] = []
    if expected is not None and found != expected:
        differences.append(f"has {found}, but the official data set has {expected}")
    if isinstance(source, ArraySource) and source.changed:
        differences.append(f"has other content than the official data set in {first_few(source.changed)}")
    if differences and not altered:
        raise DataError(
            f"{origin} {', and '.join(differences)}: get the official files again, or say --altered if it is to differ"
        )
    _check_classes(source.classes, origin=origin)
    for half, labels in (("training", source.train.labels), ("test", source.test.labels)):
        check_labels(labels, source.classes, half=half, origin=origin)
    if isinstance(source, FileSource):
        _check_files(source, origin=origin)
    return tuple(differences)


def _check_classes(classes: tuple[str, ...], *, origin: str) -> None:
    if len(classes) < 2:
        raise DataError(f"{origin} has one class alone, {first_few(classes)}: two or more are needed to tell apart")
    strange = [name for name in classes if not is_text(name) or not name.strip()]
    if strange:
        raise DataError(
            f"{origin} has names of classes that are no printable text in UTF-8: {first_few(strange)}; rename them"
        )
    twice = sorted(name for name, num in Counter(classes).items() if num > 1)
    if twice:
        raise DataError(f"{origin} names classes twice: {first_few(twice)}")
    pairs = alike(classes)
    if pairs:
        raise DataError(
            f"{origin} has classes whose names differ only in their Unicode form: "
            f"{first_few(f'{one!a} and {other!a}' for one, other in pairs)}; rename one of them"
        )


def _check_files(source: FileSource, *, origin: str) -> None:
    """Checks that no file is in both halves, or in two classes: by its name, by a link, or by another name of it."""
    files: dict[object, tuple[int, str, int]] = {}
    real_folder = lru_cache(maxsize=1024)(os.path.realpath)
    both, twice = [], []
    for half, split in enumerate((source.train, source.test)):
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            _check_name(name, origin=origin)
            for identity in _identities(split.root / name, real_folder):
                other_half, other, other_label = files.setdefault(identity, (half, name, label))
                if other_half != half:
                    both.append(name if other == name else f"{name} is {other}")
                    break
                # Another name on the disk, unlike a link, may be what a program made of equal files.
                if other_label != label and isinstance(identity, str):
                    twice.append(f"{name} is {other}")
                    break
    if both:
        raise DataError(f"{origin} has {len(both):,} images in both training and test: {first_few(both)}")
    if twice:
        raise DataError(f"{origin} has {len(twice):,} images in two classes: {first_few(twice)}")


def _check_name(name: str, *, origin: str) -> None:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(f"{origin} lists the image {shown(name)!r}, which is no file of it")


def _identities(path: Path, real_folder: Callable[[Path], str]) -> Iterator[object]:
    """What tells a file from others: where it lies, links resolved; of one that has several names its number, too."""
    try:
        found = read_from(path, path.lstat)
        if stat.S_ISLNK(found.st_mode):
            yield os.path.realpath(path)
            found = read_from(path, path.stat)
        else:
            yield f"{real_folder(path.parent)}{os.sep}{path.name}"
    except OSError:
        yield str(path)
        return
    if found.st_nlink > 1:
        # Some file systems give numbers anew: length and time have to agree as well.
        yield found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


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
    """Names for a message that has to stay one line: at most ``limit``, printable, then how many more."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(map(shown, every[:limit])) + more


def changed_files(contents: Iterable[tuple[str, bytes]], published: Mapping[str, str]) -> tuple[str, ...]:
    """Names of files that have other content than was published.

    Args:
        contents: Names and contents.
        published: The MD5 sums that data sets are published with; what it does not name is not compared.
    """
    return tuple(name for name, content in contents if name in published and md5(content) != published[name])


def md5(content: bytes) -> str:
    """The MD5 sum, in hexadecimal: not to be trusted against those who make two files, but it is what was published."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: it cannot be read as text.
        StorageError: the file system refuses to read it.
    """
    try:
        return [line for line in read_file(path, limit=_LONGEST_LIST).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc
