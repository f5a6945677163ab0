"""Stanford Cars, in both layouts that were published.

The first has ``cars_train/``, ``cars_test/`` and a devkit, with the test labels in a file of their own; the second has
all images in ``car_ims/`` and one ``cars_annos.mat``.
Source: https://ai.stanford.edu/~jkrause/cars/car_dataset.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.data.progress import Progress
from kdhpc.data.readers.matlab import MatFile
from kdhpc.data.readers.official import Layout, locate
from kdhpc.data.readers.source import Counts, FileSource, FileSplit
from kdhpc.data.reading import is_folder

_TEST_LABELS = "cars_test_annos_withlabels.mat"
_HALVES = Layout(
    files=("cars_train", "cars_test", "cars_meta.mat", "cars_train_annos.mat", _TEST_LABELS),
    archives=("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"),
)
_TOGETHER = Layout(files=("car_ims", "cars_annos.mat"), archives=("car_ims.tgz",))
_OFFICIAL = Counts(classes=196, train=8_144, test=8_041)


@dataclass(frozen=True, kw_only=True)
class StanfordCarsReader:
    """Reads Stanford Cars. Images are kept whole: the bounding boxes are not used."""

    expected: Counts = _OFFICIAL
    """The official counts."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> FileSource:
        """Reads the folder that holds the archives, or what they unpack to.

        Raises:
            DataError: files are missing or damaged.
            StorageError: a file system refuses to read the source, or to write unpacked files.
        """
        found = locate(source, (_HALVES, _TOGETHER), scratch, progress)
        if found.layout == _TOGETHER:
            images, annotations = found.paths
            return _together(images.parent, MatFile.load(annotations))
        train_images, test_images, meta, train, test = found.paths
        return FileSource(
            classes=tuple(MatFile.load(meta).strings("class_names")),
            train=_half(_images(train_images), MatFile.load(train)),
            test=_half(_images(test_images), MatFile.load(test)),
        )


def _images(folder: Path) -> Path:
    """The folder itself, or the one of the same name inside it that some mirrors add."""
    inner = folder / folder.name
    return inner if is_folder(inner) else folder


def _half(images: Path, annotations: MatFile) -> FileSplit:
    return FileSplit(
        root=images,
        names=tuple(annotations.strings("annotations", "fname")),
        labels=annotations.integers("annotations", "class") - 1,
    )


def _together(root: Path, annotations: MatFile) -> FileSource:
    names = np.array(annotations.strings("annotations", "relative_im_path"), dtype=np.str_)
    labels = annotations.integers("annotations", "class") - 1
    in_test = annotations.integers("annotations", "test") != 0
    train, test = (
        FileSplit(root=root, names=tuple(names[half].tolist()), labels=labels[half]) for half in (~in_test, in_test)
    )
    return FileSource(classes=tuple(annotations.strings("class_names")), train=train, test=test)
