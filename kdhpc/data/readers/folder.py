"""A folder of any images: ``train/<class>/*`` and ``test/<class>/*``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.data.names import alike, is_left_out, shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import Counts, FileSource, FileSplit, first_few
from kdhpc.data.reading import entries_in, folders_in, is_folder, look_at
from kdhpc.data.tree import Walk
from kdhpc.errors import DataError

_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
_VALIDATION = ("validation", "valid", "val")


@dataclass(frozen=True, kw_only=True)
class FolderReader:
    """Reads a folder for each class.

    There may be a third folder, ``validation`` (or ``valid``, ``val``). Its images are training images, because a
    search divides the training half itself. If there is no ``test`` folder, they are the test images instead. Links
    are followed, and a file that is linked several times counts once in its class. Hidden folders are left out, and
    those that desktops and file servers make (`kdhpc.data.names.is_left_out`).
    """

    expected: Counts | None = None
    """None: any numbers of images and classes are accepted."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """List the images, ordered by name.

        Raises:
            DataError: no such folders, an empty class, or classes that training and test don't share.
            StorageError: the file system refuses to list a folder.
        """
        if look_at(source) is None:
            raise DataError(f"{source} does not exist: name the folder that has train/<class>/* and test/<class>/*")
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
                raise DataError(f"{folder} is not a folder: expected are train/<class>/* and test/<class>/*")
        strange = {name for name in folders_in(source) if not is_left_out(name)} - {
            half.name for half in (*train, test)
        }
        _tell(progress, "folders", [source / name for name in strange], "neither train, test nor validation")
        return _source(source, train, test, progress)


def _source(source: Path, train: list[Path], test: Path, progress: Progress) -> FileSource:
    classes = _classes(train[0], progress)
    for folder in (*train[1:], test):
        _check_classes(classes, _classes(folder, progress), folder, origin=train[0])
    return FileSource(
        classes=classes,
        train=_split(source, train, classes, progress),
        test=_split(source, [test], classes, progress),
    )


def _classes(folder: Path, progress: Progress) -> tuple[str, ...]:
    found = folders_in(folder)
    names = tuple(name for name in found if not is_left_out(name))
    if not names:
        raise DataError(f"{folder} has no class folders: expected is {folder}/<class>/*")
    _tell(
        progress, "folders", [folder / name for name in found if is_left_out(name)], "hidden, or left behind by others"
    )
    images = [folder / entry.name for entry, _ in entries_in(folder) if Path(entry.name).suffix.lower() in _SUFFIXES]
    _tell(progress, "files", [image for image in images if image.name not in names], "images of no class")
    return names


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


def _split(source: Path, folders: list[Path], classes: tuple[str, ...], progress: Progress) -> FileSplit:
    names: list[str] = []
    labels: list[int] = []
    for folder in folders:
        for label, name in enumerate(classes):
            found = _images(source, folder / name, progress)
            names += found
            labels += [label] * len(found)
    return FileSplit(root=source, names=tuple(names), labels=np.array(labels, dtype=np.int64))


def _images(source: Path, folder: Path, progress: Progress) -> list[str]:
    """The paths of one class's images below the source, at any depth, in the order of their names."""
    walk, found = Walk(), dict[str, Path]()
    others, again = list[Path](), list[Path]()
    for file in walk.files(folder):
        if file.path.suffix.lower() not in _SUFFIXES:
            others.append(file.path)
        elif file.real in found:
            again.append(file.path)
        else:
            found[file.real] = file.path
    if not found:
        raise DataError(f"class {shown(folder.name)!r} has no image in {folder}: remove it everywhere, or add images")
    _tell(progress, "files", others, "not images by their names")
    _tell(progress, "folders", walk.left_out, "hidden, or left behind by others")
    _tell(progress, "links", [*walk.repeated, *again], "to what the class has already")
    return sorted(path.relative_to(source).as_posix() for path in found.values())


def _tell(progress: Progress, what: str, paths: list[Path], why: str) -> None:
    if paths:
        progress.say(f"left out, {what} {why}: {first_few(sorted(map(str, paths)))}")
