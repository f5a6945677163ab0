"""Some classes of a data set that is prepared already, as a data set of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdhpc.config.number_lists import parse_numbers
from kdhpc.data.packed import PackedDataset, PackedSplit, read_manifest
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts
from kdhpc.errors import UsageError

_MOST_CLASSES = 100_000
_HALVES = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class PackedReader:
    """Reads the folder of a packed data set. Images are as they are stored there: their stored size is their size."""

    expected: Counts | None = None
    """None: any numbers of images and classes are accepted."""
    classes: str
    """``first`` or ``second`` half of the classes, or their numbers, from 0: ``0..4``, or ``0,2,7``."""

    def class_names(self, source: Path) -> tuple[str, ...]:
        """The names of the chosen classes.

        Raises:
            UsageError: fewer than two classes are chosen, one twice, or one that there is not.
            DataError: the source is no packed data set.
            StorageError: the file system refuses.
        """
        names = read_manifest(source).classes
        return tuple(names[number] for number in self._numbers(len(names)))

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """Read the images of the chosen classes, which get new numbers in the same order.

        Raises:
            UsageError, DataError, StorageError: as :meth:`class_names`.
        """
        packed = PackedDataset.open(source)
        numbers = self._numbers(len(packed.classes))
        return ArraySource(
            classes=tuple(packed.classes[number] for number in numbers),
            train=_chosen(packed.train, numbers),
            test=_chosen(packed.test, numbers),
        )

    def _numbers(self, num: int) -> tuple[int, ...]:
        if self.classes in _HALVES:
            return tuple(range(num // 2)) if self.classes == "first" else tuple(range(num // 2, num))
        try:
            numbers = tuple(sorted(parse_numbers(self.classes, noun="class", most=_MOST_CLASSES)))
        except ValueError as exc:
            raise UsageError(
                f"--classes {self.classes} is not allowed: {exc}; or first or second, for a half of the {num} classes"
            ) from exc
        if numbers[-1] >= num:
            raise UsageError(f"--classes {self.classes}: there is no class {numbers[-1]}, there are 0 to {num - 1}")
        if len(numbers) < 2:
            raise UsageError(f"--classes {self.classes} is not allowed: two classes or more")
        return numbers


def _chosen(split: PackedSplit, numbers: tuple[int, ...]) -> ArraySplit:
    rows = np.flatnonzero(np.isin(split.labels, numbers))
    labels = np.searchsorted(np.array(numbers), split.labels[rows]).astype(np.int64)
    return ArraySplit(images=split.images[rows], labels=labels)
