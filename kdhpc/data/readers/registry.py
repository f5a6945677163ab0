"""All readers, by the name that ``kdhpc data prepare`` takes."""

from kdhpc.data.readers.cifar import CIFAR10, CIFAR100
from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.data.readers.fashion_mnist import FashionMnistReader
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.packed import PackedReader
from kdhpc.data.readers.source import Reader
from kdhpc.data.readers.stanford_cars import StanfordCarsReader
from kdhpc.data.readers.stanford_dogs import StanfordDogsReader
from kdhpc.errors import UsageError, nearest

READERS: dict[str, Reader] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "cub200": Cub200Reader(),
    "fashion_mnist": FashionMnistReader(),
    "folder": FolderReader(),
    "packed": PackedReader(classes=""),
    "stanford_cars": StanfordCarsReader(),
    "stanford_dogs": StanfordDogsReader(),
}


def reader_of(name: str, split: float | None = None, classes: str | None = None) -> Reader:
    """The reader of that name.

    Args:
        name: As ``kdhpc data prepare`` takes it.
        split: Share of each class that becomes the test half, for a source that has none; None: it has one.
        classes: Which classes of a packed data set, see `PackedReader`; None: the source is no such one.

    Raises:
        UsageError: there is none, it does not divide, the share is not between 0 and 1, or ``classes`` are given to
            another reader than ``packed``, or not given to that.
    """
    reader = READERS.get(name)
    if reader is None:
        raise UsageError(f"no reader {name!r}: {nearest(name, READERS)}")
    if (classes is not None) != isinstance(reader, PackedReader):
        raise UsageError(f"reader {name} {'takes no' if classes else 'needs'} --classes: they are of reader packed")
    if classes is not None:
        reader = PackedReader(classes=classes)
    if split is None:
        return reader
    if not isinstance(reader, FolderReader):
        raise UsageError(f"--split is not allowed with {name}, which has its official test half: leave it out")
    return FolderReader(split=split)
