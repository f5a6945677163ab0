"""What a reader returns: the names of the classes, and the official training and test halves, not packed yet."""

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
"""Longest text file, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images and classes a data set has."""

    classes: int
    """Number of classes."""
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""

    def __str__(self) -> str:
        return f"{self.train:,} training and {self.test:,} test images in {self.classes:,} classes"


@dataclass(frozen=True, kw_only=True)
class ArraySplit:
    """Images in memory, all of one size."""

    images: NDArray[np.uint8]
    """(N, H, W, C), C = 1 or 3."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1."""


@dataclass(frozen=True, kw_only=True)
class FileSplit:
    """Images in files of any format and size."""

    root: Path
    """Folder that the names are relative to."""
    names: tuple[str, ...]
    """Path of each image below ``root``."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1."""


@dataclass(frozen=True, kw_only=True)
class ArraySource:
    """A data set whose images are in memory."""

    classes: tuple[str, ...]
    """Names, by label."""
    train: ArraySplit
    """The official training half."""
    test: ArraySplit
    """The official test half."""
    changed: tuple[str, ...] = ()
    """Names of files whose content differs from what was published."""


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A data set whose images are in files, one file for each."""

    classes: tuple[str, ...]
    """Names, by label."""
    train: FileSplit
    """The official training half."""
    test: FileSplit
    """The official test half."""


Source = ArraySource | FileSource


class Reader(Protocol):
    """Reads data sets of one published format."""

    @property
    def expected(self) -> Counts | None:
        """Numbers of images and classes that were published; None: any numbers are accepted."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> Source:
        """Read a data set.

        Args:
            source: The file or folder that the user gave.
            scratch: A folder for unpacking archives. It is deleted when the data set is packed.
            progress: Receives messages about what takes long and what is left out.

        Raises:
            DataError: the source does not have this format, or is damaged.
            StorageError: a file system refuses to read the source, or to write unpacked files.
        """


def check_source(source: Source, expected: Counts | None, *, origin: str, altered: bool = False) -> tuple[str, ...]:
    """Check that a source is a valid data set, and that it is as published.

    There must be at least two classes, with different names, and with images in both halves. No image may be in both
    halves, by name or by any link, or in two classes, by name or by a symbolic link.

    Args:
        source: What a reader has returned.
        expected: Numbers of images and classes that were published; None: any numbers are accepted.
        origin: Path of the source as the user gave it, for messages.
        altered: Accept a source that differs from what was published.

    Returns:
        How the source differs from what was published.

    Raises:
        DataError: the message names the numbers, classes or images that are wrong.
        StorageError: a file system refuses to resolve a link.
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
    """Check that no file is in both halves (by name or any link) or in two classes (by name or a symbolic link)."""
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
                # A hard link to a file of another class is accepted: programs that remove duplicates make such links.
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
    """What identifies a file: its real path, and if it has hard links also its inode number."""
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
        # Some file systems reuse inode numbers, so length and time have to agree as well.
        yield found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_labels(labels: NDArray[np.int64], classes: tuple[str, ...], *, half: str, origin: str) -> None:
    """Check that all labels are valid, and that each class has an image.

    Raises:
        DataError: the message names the labels or classes that are wrong.
    """
    counts = np.bincount(labels[(labels >= 0) & (labels < len(classes))], minlength=len(classes))
    if counts.sum() != len(labels):
        wrong = sorted({int(label) for label in labels if not 0 <= label < len(classes)})
        raise DataError(f"{origin} has {half} labels {first_few(map(str, wrong))}: allowed are 0 to {len(classes) - 1}")
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"{origin} has no {half} image of {len(empty)} of {len(classes)} classes: {first_few(empty)}")


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Names for a message of one line: at most ``limit`` of them, made printable, and the number of the others."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(map(shown, every[:limit])) + more


def changed_files(contents: Iterable[tuple[str, bytes]], published: Mapping[str, str]) -> tuple[str, ...]:
    """Names of files whose content differs from what was published.

    Args:
        contents: Names and contents of files.
        published: Published MD5 sums by name. Files without one are not compared.
    """
    return tuple(name for name, content in contents if name in published and md5(content) != published[name])


def md5(content: bytes) -> str:
    """MD5 sum in hexadecimal, as data sets publish it. It finds damage, but not a forgery."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: the file cannot be read as text.
        StorageError: the file system refuses to read it.
    """
    try:
        return [line for line in read_file(path, limit=_LONGEST_LIST).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc
