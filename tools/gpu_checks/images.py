"""Images that a network can learn, made up: each class has its own coarse pattern of colours, under noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.prepare import PrepareRequest, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, ArraySplit, Counts

_CELLS = 4
"""Squares of the pattern on a side."""
_CONTRAST = 24


def made_up(num_images: int, side: int, num_classes: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, S, S, 3) and labels, classes in turn; the patterns are the same for all seeds."""
    patterns = np.random.default_rng(0).normal(0, _CONTRAST, (num_classes, _CELLS, _CELLS, 3))
    rng = np.random.default_rng((1, seed))
    labels = np.arange(num_images, dtype=np.int64) % num_classes
    rows = np.arange(side) * _CELLS // side
    images = np.empty((num_images, side, side, 3), dtype=np.uint8)
    for index, label in enumerate(labels):
        noise = rng.integers(-48, 49, (side, side, 1), dtype=np.int16)
        image = 128 + patterns[label][rows][:, rows].astype(np.int16) + noise
        images[index] = image.clip(0, 255)
    return images, labels


@dataclass(frozen=True, kw_only=True)
class MadeUpReader:
    """Reads nothing: the images of a search."""

    num_images: int
    """Of the training half; the test half is as small as may be."""
    side: int
    """Of the images, in pixels."""
    num_classes: int
    """C."""
    expected: Counts | None = None
    """Any counts are right."""

    def read(self, source: Path, scratch: Path, progress: Progress) -> ArraySource:
        """The images."""
        halves = [
            ArraySplit(images=images, labels=labels)
            for images, labels in (
                made_up(self.num_images, self.side, self.num_classes, 0),
                made_up(self.num_classes, self.side, self.num_classes, 1),
            )
        ]
        classes = tuple(f"class {index}" for index in range(self.num_classes))
        return ArraySource(classes=classes, train=halves[0], test=halves[1])


def pack(folder: Path, reader: MadeUpReader, source: Path) -> None:
    """Pack them as `kdhpc data prepare` does.

    Args:
        folder: Where to; its last part is the data set's name.
        reader: The images.
        source: Any file: what is remembered as their origin.
    """
    import io

    request = PrepareRequest(reader=reader, reader_name="made_up", source=source, folder=folder)
    prepare(request, Progress(io.StringIO()))
