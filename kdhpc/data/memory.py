"""Data sets made of arrays in memory, with the interface of a packed data set. They need no folder.

Where other processes have to read such a data set, :func:`write_packed` writes it to a folder. Its checksum is that of
the folder in either case: the files that the folder would have are hashed without being written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.config.own_datasets import MANIFEST
from kdhpc.data.packed import (
    FORMAT,
    HALVES,
    TEST_NAMES,
    VERSION,
    FileRecord,
    Half,
    Manifest,
    PackedDataset,
    PackedSplit,
    content_checksum,
)
from kdhpc.data.packing import pack_arrays
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, ArraySplit, check_source
from kdhpc.data.reading import look_at
from kdhpc.data.split import search_split
from kdhpc.data.staging import publish, staged
from kdhpc.data.writing import array_record
from kdhpc.errors import ConfigError, DataError
from kdhpc.files.writing import write_whole

READER = "memory"
"""Name of the reader in the manifests of such data sets, and the beginning of their names."""
TEST_SHARE = 0.2
"""Share of the images of each class that become test images, if no test images are given."""


def in_memory(source: ArraySource, *, origin: str) -> PackedDataset:
    """Make a data set from arrays, with the checks that a reader's data sets go through.

    Args:
        source: Images, labels and names of the classes.
        origin: Name of the arrays in messages.

    Raises:
        DataError: there is only one class, a class has no images, a label is outside the classes, or a name of a class
            cannot be used.
    """
    check_source(source, None, origin=origin)
    records = tuple(record for half, split in _halves(source) for record in _records(half, split))
    checksum = content_checksum(source.classes, records)
    height, width, channels = source.train.images.shape[1:]
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        name=f"{READER}-{checksum[:12]}",
        reader=READER,
        image_shape=(height, width, channels),
        resized=False,
        classes=source.classes,
        train=len(source.train.labels),
        test=len(source.test.labels),
        skipped=(),
        files=records,
        checksum=checksum,
    )
    return PackedDataset(manifest=manifest, train=_split(source.train), test=_split(source.test))


def divide(split: ArraySplit, *, origin: str) -> tuple[ArraySplit, ArraySplit]:
    """Divide images into training and test images. The test images are a fifth of each class.

    Equal labels give equal halves, in every process and version.

    Returns:
        The training half and the test half.

    Raises:
        DataError: there are too few images.
    """
    try:
        halves = search_split(split.labels, validation_fraction=TEST_SHARE, subset=None, seed=0)
    except ConfigError as exc:
        raise DataError(
            f"{origin} has {len(split.labels):,} images, too few to keep a fifth of each class as test images: give "
            "more, or test images of their own"
        ) from exc
    chosen = (halves.train, halves.validation)
    train, test = (ArraySplit(images=split.images[indices], labels=split.labels[indices]) for indices in chosen)
    return train, test


def with_test_half(packed: PackedDataset, other: PackedDataset) -> PackedDataset:
    """Combine the training images of one data set with the test images of another.

    Raises:
        DataError: the two differ in their classes or in the shape of their images.
    """
    ours, theirs = packed.manifest, other.manifest
    for what, one, two in (
        ("classes", len(ours.classes), len(theirs.classes)),
        ("names of classes", ours.classes, theirs.classes),
        ("images of shape", ours.image_shape, theirs.image_shape),
    ):
        if one != two:
            raise DataError(
                f"{theirs.name} cannot test what learns from {ours.name}: {what} {_short(two)}, not {_short(one)}"
            )
    files = (*_of_half(ours, "train"), *_of_half(theirs, "test"))
    checksum = content_checksum(ours.classes, files)
    name = f"{READER}-{checksum[:12]}"
    manifest = replace(
        ours, name=name, reader=READER, test=theirs.test, files=files, checksum=checksum, origin=None, split=None
    )
    return PackedDataset(manifest=manifest, train=packed.train, test=other.test)


def write_packed(packed: PackedDataset, folder: Path, progress: Progress) -> bool:
    """Write a data set from memory to a folder, for other processes, unless the folder has it already.

    Args:
        packed: The data set.
        folder: The folder to write.
        progress: Receives a message if the file system has no locks.

    Returns:
        Whether it was written now; False: it was there already.

    Raises:
        DataError: another process is writing it now, or the folder holds other images.
        StorageError: the file system refuses.
    """
    if look_at(folder) is not None:
        _check_same(packed, folder)
        return False
    source = ArraySource(classes=packed.classes, train=_array_split(packed.train), test=_array_split(packed.test))
    with staged(folder, progress) as stage:
        if look_at(folder) is None:
            pack_arrays(source, stage.packed)
            write_whole(stage.packed / MANIFEST, packed.manifest.to_json())
            publish(stage, folder)
    _check_same(packed, folder)
    return True


def _check_same(packed: PackedDataset, folder: Path) -> None:
    if PackedDataset.open(folder).checksum != packed.checksum:
        raise DataError(f"{folder} holds other images than its name says: move it away")


def _halves(source: ArraySource) -> Sequence[tuple[Half, ArraySplit]]:
    return tuple(zip(HALVES, (source.train, source.test), strict=True))


def _records(half: Half, split: ArraySplit) -> tuple[FileRecord, ...]:
    num, height, width, channels = split.images.shape
    return (
        array_record(half, "images", (num, height, width, channels), "|u1", [split.images]),
        array_record(half, "labels", (num,), "<i8", [split.labels]),
        array_record(half, "sizes", (num, 2), "<i4", [_sizes(split)]),
    )


def _sizes(split: ArraySplit) -> NDArray[np.int32]:
    num, height, width, _ = split.images.shape
    return np.tile(np.array([height, width], dtype=np.int32), (num, 1))


def _split(split: ArraySplit) -> PackedSplit:
    return PackedSplit(images=split.images, labels=split.labels, sizes=_sizes(split))


def _array_split(split: PackedSplit) -> ArraySplit:
    return ArraySplit(images=np.asarray(split.images), labels=split.labels)


def _of_half(manifest: Manifest, half: Half) -> tuple[FileRecord, ...]:
    mine = (record for record in manifest.files if record.path.startswith(f"{half}/"))
    return tuple(record for record in mine if record.path != TEST_NAMES)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
