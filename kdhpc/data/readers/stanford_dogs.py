"""Stanford Dogs: ``Images/<breed>/*.jpg`` and the official lists, from the archives or unpacked.

Source: http://vision.stanford.edu/aditya86/ImageNetDogs/
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdhpc.data.progress import Progress
from kdhpc.data.readers.matlab import MatFile
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.source import Counts, FileSource, FileSplit
from kdhpc.errors import DataError

_LAYOUTS = (
    Layout(files=("Images", "train_list.mat", "test_list.mat"), archives=("images.tar", "lists.tar")),
    Layout(files=("Images", "lists/train_list.mat", "lists/test_list.mat"), archives=("images.tar", "lists.tar")),
)
_OFFICIAL = Counts(classes=120, train=12_000, test=8_580)


@dataclass(frozen=True, kw_only=True)
class StanfordDogsReader:
    """Reads Stanford Dogs; classes are named as their folders."""

    expected: Counts = _OFFICIAL
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """Reads the folder that holds ``images.tar`` and ``lists.tar``, or what they unpack to.

        Raises:
            DataError: files are missing or damaged, or the lists contradict each other.
            StorageError: a file system refuses to read the source, or to write unpacked files.
        """
        images, train_list, test_list = locate(source, _LAYOUTS, scratch, progress).paths
        train, test = _split(train_list, images), _split(test_list, images)
        classes, test_classes = _classes(train, train_list), _classes(test, test_list)
        for label, (one, other) in enumerate(zip(classes, test_classes, strict=False)):
            if one != other:
                raise DataError(f"label {label + 1} is {one!r} in {train_list}, but {other!r} in {test_list}")
        if len(classes) != len(test_classes):
            raise DataError(f"{train_list} has {len(classes)} classes, but {test_list} has {len(test_classes)}")
        return FileSource(classes=classes, train=train, test=test)


def _split(path: Path, images: Path) -> FileSplit:
    content = MatFile.load(path)
    names, labels = content.strings("file_list"), content.integers("labels")
    if len(names) != len(labels):
        raise DataError(f"{path} lists {len(names):,} images, but {len(labels):,} labels: get it again")
    return FileSplit(root=images, names=tuple(names), labels=labels - 1)


def _classes(split: FileSplit, path: Path) -> tuple[str, ...]:
    """The class names: the folder of each label's images, in the order of the labels."""
    folders: dict[int, str] = {}
    for name, label in zip(split.names, split.labels.tolist(), strict=True):
        folder = PurePosixPath(name).parts[0] if name.strip("/.") else name
        if folders.setdefault(label, folder) != folder:
            raise DataError(f"{path} gives label {label + 1} to {folders[label]!r} and to {folder!r}")
    if not folders:
        raise DataError(f"{path} lists no images: get it again")
    if sorted(folders) != list(range(len(folders))):
        raise DataError(f"{path} has labels {min(folders) + 1} to {max(folders) + 1}, but only {len(folders)} of them")
    return tuple(folders[label] for label in range(len(folders)))
