"""A packed data set that is in memory: of arrays, without a folder, until somebody else has to read it.

Its checksum is that of the same images packed into a folder: the files that it would have are hashed without being
written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.packed import (
    FORMAT,
    HALVES,
    MANIFEST,
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
"""What manifests call data sets that were arrays in Python."""
TEST_SHARE = 0.2
"""Of the images, by class, that become test images where there are no others."""


def in_memory(source: ArraySource, *, origin: str) -> PackedDataset:
    """A data set of arrays, checked as if a reader had found them.

    Args:
        source: The images, labels and names of classes.
        origin: What messages call it.

    Raises:
        DataError: one class alone, a class without images, labels outside the classes, names that cannot be used.
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
    """Images to learn from, and a fifth of them, by class and always the same, to test on.

    Raises:
        DataError: there are too few.
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
    """The training images of a data set, with the test images of another.

    Raises:
        DataError: they differ in their classes or in the form of their images.
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
    manifest = replace(ours, name=name, reader=READER, test=theirs.test, files=files, checksum=checksum, origin=None)
    return PackedDataset(manifest=manifest, train=packed.train, test=other.test)


def write_packed(packed: PackedDataset, folder: Path, progress: Progress) -> bool:
    """Write a data set that is in memory to a folder, for other processes; one that is there already stays.

    Args:
        packed: The data set, whose name says its content.
        folder: Where to.
        progress: Told where the file system has no locks.

    Returns:
        Whether it was written now.

    Raises:
        DataError: another process writes it now, or the folder holds something else.
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
    return tuple(record for record in manifest.files if record.path.startswith(f"{half}/"))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
