"""CUB-200-2011 (Caltech-UCSD Birds): ``images/`` and its text files, from the archive or unpacked.

Source: https://www.vision.caltech.edu/datasets/cub_200_2011/
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.data.names import shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.source import Counts, FileSource, FileSplit, first_few, lines_of
from kdhpc.errors import DataError

_LAYOUT = Layout(
    files=("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    archives=("CUB_200_2011.tgz",),
)
_OFFICIAL = Counts(classes=200, train=5_994, test=5_794)


@dataclass(frozen=True, kw_only=True)
class Cub200Reader:
    """Reads CUB-200-2011. Images are kept whole: bounding boxes and part locations are not used."""

    expected: Counts = _OFFICIAL
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """Reads the archive or its unpacked folder.

        Raises:
            DataError: files are missing or damaged, or the lists are about different images.
            StorageError: a file system refuses to read the source, or to write unpacked files.
        """
        images, names_path, labels_path, halves_path, classes_path = locate(source, (_LAYOUT,), scratch, progress).paths
        names, labels, halves = _table(names_path), _table(labels_path), _table(halves_path)
        for table, path in ((labels, labels_path), (halves, halves_path)):
            strange = sorted(names.keys() ^ table.keys())
            if strange:
                raise DataError(
                    f"{names_path.name} and {path} must have the same images; differing ids: {first_few(strange)}"
                )
        strange = sorted(set(halves.values()) - {"0", "1"})
        if strange:
            raise DataError(f"{halves_path} has {first_few(strange)} where 0 (test) or 1 (training) should be")
        classes = _table(classes_path)
        order = {key: label for label, key in enumerate(classes)}
        train, test = (
            FileSplit(
                root=images,
                names=tuple(name for key, name in names.items() if halves[key] == half),
                labels=np.array([order.get(labels[key], -1) for key in names if halves[key] == half], dtype=np.int64),
            )
            for half in ("1", "0")
        )
        return FileSource(classes=tuple(classes.values()), train=train, test=test)


def _table(path: Path) -> dict[str, str]:
    """Read a file of lines ``id value``: the values by id, in the order of the lines."""
    table: dict[str, str] = {}
    for number, line in enumerate(lines_of(path), start=1):
        key, _, value = line.strip().partition(" ")
        if not value or key in table:
            raise DataError(
                f"{path} line {number}, {shown(line)!r}, is not 'id value' with an id of its own: get it again"
            )
        table[key] = value
    return table
