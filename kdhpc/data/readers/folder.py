"""A folder of any images: ``train/<class>/*`` and ``test/<class>/*``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import Counts, FileSource, FileSplit, first_few
from kdhpc.data.reading import files_below, folders_in, is_folder, look_at
from kdhpc.errors import DataError

_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
_VALIDATION = ("validation", "valid", "val")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One image."""

    label: str
    """Its class."""
    name: str
    """Its path below the source."""


@dataclass(frozen=True, kw_only=True)
class FolderReader:
    """Reads one folder a class.

    A third folder, ``validation`` (or ``valid``, ``val``), counts as training images, because a search divides the
    training half itself; without a ``test`` folder it is the test half.
    """

    expected: Counts | None = None
    """Any counts are right."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """Lists the images, in the order of their names.

        Raises:
            DataError: no such folders, an empty class, or classes that training and test don't share.
            StorageError: the file system refuses to list a folder.
        """
        if look_at(source) is None:
            raise DataError(f"{source} does not exist: name the folder that has train/<class>/* and test/<class>/*")
        validation = next((source / name for name in _VALIDATION if is_folder(source / name)), None)
        train, test = [source / "train"], source / "test"
        if not is_folder(test) and validation is not None:
            progress.say(f"{validation} is the test half: there is no {test}")
            test = validation
        elif validation is not None:
            progress.say(f"{validation} is added to the training half: a search divides that half itself")
            train.append(validation)
        for folder in (*train, test):
            if not is_folder(folder):
                raise DataError(f"{folder} is not a folder: expected are train/<class>/* and test/<class>/*")
        return _source(source, train, test, progress)


def _source(source: Path, train: list[Path], test: Path, progress: Progress) -> FileSource:
    classes = _classes(train[0])
    for folder in (*train[1:], test):
        _check_classes(classes, folder, origin=train[0])
    return FileSource(
        classes=classes,
        train=_split(source, train, classes, progress),
        test=_split(source, [test], classes, progress),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(name for name in folders_in(folder) if not name.startswith("."))
    if not names:
        raise DataError(f"{folder} has no class folders: expected is {folder}/<class>/*")
    return names


def _check_classes(classes: tuple[str, ...], folder: Path, *, origin: Path) -> None:
    found = set(_classes(folder))
    missing, strange = sorted(set(classes) - found), sorted(found - set(classes))
    if missing or strange:
        parts = [f"has no {first_few(missing)}"] * bool(missing) + [f"also has {first_few(strange)}"] * bool(strange)
        raise DataError(f"{folder} and {origin} must have the same classes: {folder.name} {' and '.join(parts)}")


def _split(source: Path, folders: list[Path], classes: tuple[str, ...], progress: Progress) -> FileSplit:
    found = [image for folder in folders for name in classes for image in _images(source, folder, name, progress)]
    labels = {name: label for label, name in enumerate(classes)}
    return FileSplit(
        root=source,
        names=tuple(image.name for image in found),
        labels=np.array([labels[image.label] for image in found], dtype=np.int64),
    )


def _images(source: Path, folder: Path, label: str, progress: Progress) -> list[_Found]:
    """The images of one class, at any depth."""
    below = files_below(folder / label, lambda folder: True)
    files = [path for path in below if not path.name.startswith(".")]
    images = sorted(path.relative_to(source).as_posix() for path in files if path.suffix.lower() in _SUFFIXES)
    if not images:
        raise DataError(f"class {label!r} has no image in {folder / label}: remove it everywhere, or add images")
    if len(images) < len(files):
        others = sorted(path.name for path in files if path.suffix.lower() not in _SUFFIXES)
        progress.say(f"left out of {folder / label}, not images by their names: {first_few(others)}")
    return [_Found(label=label, name=name) for name in images]
