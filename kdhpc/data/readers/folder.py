"""A folder of any images: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` with a share for testing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.data.names import alike, is_left_out
from kdhpc.data.progress import Progress
from kdhpc.data.readers.class_folders import Remarks, class_names, images_of
from kdhpc.data.readers.dividing import check_fraction, divided
from kdhpc.data.readers.source import Counts, FileSource, FileSplit, first_few
from kdhpc.data.reading import folders_in, is_folder, look_at
from kdhpc.errors import DataError

_VALIDATION = ("validation", "valid", "val")
_HALVES = ("train", "test", *_VALIDATION)


@dataclass(frozen=True, kw_only=True)
class FolderReader:
    """Reads a folder for each class.

    There may be a third folder, ``validation`` (or ``valid``, ``val``). Its images are training images, because a
    search divides the training half itself. If there is no ``test`` folder, they are the test images instead. Links
    are followed, and a file that is linked several times counts once in its class. Hidden folders are left out, and
    those that desktops and file servers make (`kdhpc.data.names.is_left_out`).

    Raises:
        UsageError: ``split`` is not between 0 and 1.
    """

    expected: Counts | None = None
    """None: any numbers of images and classes are accepted."""
    split: float | None = None
    """The source has class folders alone, and this share of each class becomes the test half; None: it has halves."""

    def __post_init__(self) -> None:
        if self.split is not None:
            check_fraction(self.split)

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """List the images, ordered by name.

        Raises:
            DataError: no such folders, an empty class, classes that training and test don't share, or with ``split``
                a class with a single image.
            StorageError: the file system refuses to list a folder.
        """
        if look_at(source) is None:
            raise DataError(f"{source} does not exist: name the folder that has train/<class>/* and test/<class>/*")
        remarks = Remarks()
        found = _read_halves(source, remarks, progress) if self.split is None else self._read_flat(source, remarks)
        remarks.tell(progress)
        return found

    def _read_flat(self, source: Path, remarks: Remarks) -> FileSource:
        assert self.split is not None
        if not is_folder(source):
            raise DataError(f"{source} is not a folder: expected is {source}/<class>/*")
        halves = [name for name in _HALVES if is_folder(source / name)]
        if halves:
            raise DataError(
                f"{source} has {first_few(halves)} already, and --split is for a folder of classes: leave --split out, "
                f"or name {source / halves[0]}"
            )
        classes = class_names(source, remarks)
        _refuse_one_folder(source, classes)
        images = images_of(source, source, classes, remarks)
        train, test = divided(source, classes, images, self.split, remarks)
        return FileSource(classes=classes, train=_split(source, train), test=_split(source, test))


def _refuse_one_folder(source: Path, classes: Sequence[str]) -> None:
    """What an archive unpacks to is often one more folder around the classes."""
    inner = source / classes[0]
    if len(classes) == 1 and len([name for name in folders_in(inner) if not is_left_out(name)]) > 1:
        raise DataError(f"{source} has one folder alone, which holds folders itself: name {inner} if those are classes")


def _read_halves(source: Path, remarks: Remarks, progress: Progress) -> FileSource:
    found = [source / name for name in _VALIDATION if is_folder(source / name)]
    if len(found) > 1:
        raise DataError(f"{source} has {first_few(folder.name for folder in found)}: which one is meant? Keep one")
    validation = next(iter(found), None)
    train, test = [source / "train"], source / "test"
    if not is_folder(test) and validation is not None:
        progress.say(f"{validation} is the test half: there is no {test}")
        test = validation
    elif validation is not None:
        progress.say(f"{validation} is added to the training half: a search divides that half itself")
        train.append(validation)
    for folder in (*train, test):
        if not is_folder(folder):
            raise DataError(f"{folder} is not a folder: expected are train/<class>/* and test/<class>/*{_hint(source)}")
    strange = {name for name in folders_in(source) if not is_left_out(name)} - {half.name for half in (*train, test)}
    remarks.note("left out, folders neither train, test nor validation", [source / name for name in strange])
    classes = class_names(train[0], remarks)
    for folder in (*train[1:], test):
        _check_classes(classes, class_names(folder, remarks), folder, origin=train[0])
    learnt = [images_of(source, folder, classes, remarks) for folder in train]
    tested = images_of(source, test, classes, remarks)
    # By folder first, then by class.
    names = [name for images in learnt for group in images for name in group]
    labels = [label for images in learnt for label, group in enumerate(images) for _ in group]
    return FileSource(
        classes=classes,
        train=FileSplit(root=source, names=tuple(names), labels=np.array(labels, dtype=np.int64)),
        test=_split(source, tested),
    )


def _hint(source: Path) -> str:
    """What to do where there is no test half."""
    if not is_folder(source):
        return ""
    folder = source / "train" if is_folder(source / "train") else source
    if not [name for name in folders_in(folder) if not is_left_out(name) and name not in _HALVES]:
        return ""
    return f"; for {folder}/<class>/* alone: kdhpc data prepare folder {folder} --split 0.2 --name NAME"


def _check_classes(classes: tuple[str, ...], found: tuple[str, ...], folder: Path, *, origin: Path) -> None:
    missing, strange = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
    pairs = alike([*missing, *strange])
    if pairs:
        one, other = map(ascii, pairs[0])
        raise DataError(
            f"{folder} and {origin} name a class in two Unicode forms, {other} and {one}: give both the same name"
        )
    if missing or strange:
        parts = [f"has no {first_few(missing)}"] * bool(missing) + [f"also has {first_few(strange)}"] * bool(strange)
        raise DataError(f"{folder} and {origin} must have the same classes: {folder.name} {' and '.join(parts)}")


def _split(source: Path, images: Sequence[Sequence[str]]) -> FileSplit:
    names = tuple(name for group in images for name in group)
    labels = [label for label, group in enumerate(images) for _ in group]
    return FileSplit(root=source, names=names, labels=np.array(labels, dtype=np.int64))
