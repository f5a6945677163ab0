"""Packing: the images of a source are brought to one shape and written as arrays."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.decode import Header, Target
from kdhpc.data.packed import HALVES, TEST_NAMES, FileRecord, Half, Skipped
from kdhpc.data.parts import (
    Part,
    decode_part,
    header_jobs,
    in_parallel,
    part_images,
    part_reasons,
    part_sizes,
    plan_parts,
    read_headers,
)
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, FileSource, check_labels, first_few
from kdhpc.data.reading import look_at
from kdhpc.data.staging import Stage
from kdhpc.data.writing import write_array
from kdhpc.errors import DataError
from kdhpc.files.writing import write_whole
from kdhpc.printing import one_line

DEFAULT_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The arrays that were written."""

    target: Target
    """Shape of the stored images."""
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""
    files: tuple[FileRecord, ...]
    """The files that were written."""
    skipped: tuple[Skipped, ...] = ()
    """The images that were left out."""


@dataclass(frozen=True, kw_only=True)
class _DecodedPart:
    part: Part
    """Where the images are."""
    reasons: tuple[str, ...]
    """For each image why it could not be decoded; an empty text: it could."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)


def pack_arrays(source: ArraySource, folder: Path) -> Packed:
    """Write images that are decoded already, without changing them."""
    height, width, channels = source.train.images.shape[1:]
    files: list[FileRecord] = []
    for half, split in zip(HALVES, (source.train, source.test), strict=True):
        num = len(split.labels)
        sizes = np.broadcast_to(np.array([height, width], dtype=np.int32), (num, 2))
        files += [
            write_array(folder, half, "images", (num, height, width, channels), "|u1", [split.images]),
            write_array(folder, half, "labels", (num,), "<i8", [split.labels]),
            write_array(folder, half, "sizes", (num, 2), "<i4", [sizes]),
        ]
    return Packed(
        target=Target(height=height, width=width, channels=channels, resize=False),
        train=len(source.train.labels),
        test=len(source.test.labels),
        files=tuple(files),
    )


def pack_files(
    source: FileSource,
    stage: Stage,
    *,
    size: int | None,
    num_jobs: int,
    skip_broken: bool,
    lists_test: bool,
    origin: str,
    progress: Progress,
) -> Packed:
    """Decode image files in parallel, and write them as arrays of one shape.

    Args:
        source: The files.
        stage: The folder for decoded parts; the arrays go to its ``packed``.
        size: Side of the square that images are resized to, in pixels; None: 256, or no resizing, if all images have
            the same size and no side is longer than 256.
        num_jobs: Number of processes that decode.
        skip_broken: Leave out images that cannot be decoded.
        lists_test: Also write the names of the test images, which are not the source's own choice.
        origin: Path of the source as the user gave it, for messages.
        progress: Counts images.

    Raises:
        DataError: images cannot be decoded, and ``skip_broken`` is false or a class would be left without images.
        StorageError: the file system refuses.
    """
    target = _target(source, size, num_jobs, progress)
    splits = (source.train, source.test)
    parts = [
        part
        for half, split in zip(HALVES, splits, strict=True)
        for part in plan_parts(split, half, target, stage.parts)
    ]
    _decode(parts, num_jobs, progress)
    decoded = [_DecodedPart(part=part, reasons=part_reasons(part)) for part in parts]
    skipped = _skipped(decoded)
    if skipped and not skip_broken:
        named = first_few(f"{image.name} ({image.reason})" for image in skipped)
        raise DataError(
            f"{origin} has images that cannot be decoded, {len(skipped):,} of {sum(map(len, parts)):,}: {named}; "
            "repair or remove them, or leave them out with --skip-broken"
        )
    train, train_files = _write_half("train", decoded, target, source.classes, stage.packed, origin=origin)
    test, test_files = _write_half("test", decoded, target, source.classes, stage.packed, origin=origin)
    if lists_test:
        test_files.append(_write_names(decoded, stage.packed))
    return Packed(target=target, train=train, test=test, files=(*train_files, *test_files), skipped=skipped)


def _target(source: FileSource, size: int | None, num_jobs: int, progress: Progress) -> Target:
    """The shape in which images will be stored. It depends on the headers of all of them."""
    jobs = [job for split in (source.train, source.test) for job in header_jobs(split)]
    progress.start("reading headers", len(source.train.names) + len(source.test.names))
    headers: list[Header] = []
    for job, found in zip(jobs, in_parallel(read_headers, jobs, num_jobs), strict=True):
        headers += found
        progress.advance(len(job.names))
    channels = 1 if all(header.grey for header in headers) else 3
    shapes = {(header.height, header.width) for header in headers}
    if size is None and len(shapes) == 1:
        ((height, width),) = shapes
        if max(height, width) <= DEFAULT_SIZE:
            return Target(height=height, width=width, channels=channels, resize=False)
    side = DEFAULT_SIZE if size is None else size
    return Target(height=side, width=side, channels=channels, resize=True)


def _decode(parts: list[Part], num_jobs: int, progress: Progress) -> None:
    missing = [part for part in parts if look_at(part.file) is None]
    total, left = sum(map(len, parts)), sum(map(len, missing))
    if left < total:
        progress.say(f"going on where an earlier run stopped: {total - left:,} of {total:,} images are decoded")
    progress.start("decoding images", left)
    for num in in_parallel(decode_part, missing, num_jobs):
        progress.advance(num)


def _skipped(decoded: list[_DecodedPart]) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(half=each.part.half, name=name, reason=reason)
        for each in decoded
        for name, reason in zip(each.part.names, each.reasons, strict=True)
        if reason
    )


def _write_names(decoded: list[_DecodedPart], folder: Path) -> FileRecord:
    """Write the path of each test image in a line, in the order of the images."""
    mine = [each for each in decoded if each.part.half == "test"]
    names = [name for each in mine for name, kept in zip(each.part.names, each.kept.tolist(), strict=True) if kept]
    content = "".join(f"{one_line(name)}\n" for name in names).encode()
    write_whole(folder / TEST_NAMES, content)
    return FileRecord(path=TEST_NAMES, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _write_half(
    half: Half, decoded: list[_DecodedPart], target: Target, classes: tuple[str, ...], folder: Path, *, origin: str
) -> tuple[int, list[FileRecord]]:
    """Join the parts of a half into arrays, without the images that could not be decoded."""
    mine = [each for each in decoded if each.part.half == half]
    labels = np.concatenate([each.part.labels[each.kept] for each in mine])
    check_labels(labels, classes, half="training" if half == "train" else half, origin=origin)
    num = len(labels)
    shape = (num, target.height, target.width, target.channels)
    images = (part_images(each.part)[each.kept] for each in mine)
    sizes = (part_sizes(each.part)[each.kept] for each in mine)
    return num, [
        write_array(folder, half, "images", shape, "|u1", images),
        write_array(folder, half, "labels", (num,), "<i8", [labels]),
        write_array(folder, half, "sizes", (num, 2), "<i4", sizes),
    ]
