"""Decoding thousands of image files in parallel, in parts that an interruption does not lose.

A part is up to 128 images of one half. One process decodes it into one file. The file's name has a checksum of what the
part was made from (names, lengths and times of the image files, and the target). So a run that is started again uses
the parts that an earlier run has finished, and decodes only those that are missing or whose files have changed.
"""

import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.decode import Header, Target, decode, read_header
from kdhpc.data.packed import Half
from kdhpc.data.readers.source import FileSplit, first_few
from kdhpc.data.reading import look_at, open_file
from kdhpc.errors import DataError
from kdhpc.files.removing import remove
from kdhpc.files.writing import write_whole

IMAGES_PER_PART = 128
_PART_VERSION = 1

_Item = TypeVar("_Item", "Part", "HeaderJob")
_Result = TypeVar("_Result")
_Places: TypeAlias = "ctypes.Array[ctypes.c_int]"
"""For each item, the image that a process is reading, counted from 1; 0: the item is not begun, or done."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of one half, and the file that they are decoded into."""

    half: Half
    """Which half."""
    root: Path
    """Folder that the names are relative to."""
    names: tuple[str, ...]
    """Paths of the images below ``root``."""
    labels: NDArray[np.int64]
    """int64 (n,), their labels."""
    target: Target
    """Shape of the decoded images."""
    file: Path
    """The file for the decoded images."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class HeaderJob:
    """Some images whose headers are to be read."""

    root: Path
    """Folder that the names are relative to."""
    names: tuple[str, ...]
    """Paths of the images below ``root``."""


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item], num_jobs: int) -> Iterator[_Result]:
    """Call a function for each item, in several processes. Yields the results in the order of the items.

    The processes end when this one ends, even if it is killed. They ignore Ctrl-C, which this process handles.

    Args:
        function: A function that other processes can import by its name.
        items: The arguments, one for each call.
        num_jobs: Number of processes. With 1 the function is called in this process.

    Raises:
        DataError: a process died; the message names the images that were being read.
    """
    if num_jobs == 1 or len(items) <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    places = context.RawArray("i", len(items))
    try:
        with ProcessPoolExecutor(
            min(num_jobs, len(items)), mp_context=context, initializer=_begin, initargs=(places,)
        ) as pool:
            yield from pool.map(partial(_work, function), enumerate(items))
    except BrokenProcessPool as exc:
        at = [item.names[place - 1] for item, place in zip(items, places, strict=True) if place]
        raise DataError(
            f"one of {num_jobs} decoding processes died, perhaps for want of memory (run again with fewer --jobs), "
            f"or of an image that its decoder does not survive (remove it); being read were {first_few(at, num_jobs)}"
        ) from exc


def _work(function: Callable[[_Item], _Result], numbered: tuple[int, _Item]) -> _Result:
    number, item = numbered
    _Here.number = number
    result = function(item)
    _go_to(0)
    return result


class _Here:
    """Which item a process of the pool works on. In any other process ``places`` is None."""

    places: "_Places | None" = None
    number = 0


def _go_to(place: int) -> None:
    """Record the image that this process reads now, for the message if it dies."""
    if _Here.places is not None:
        _Here.places[_Here.number] = place


def header_jobs(split: FileSplit) -> list[HeaderJob]:
    """Divide the images of a half among jobs for ``read_headers``."""
    starts = range(0, len(split.names), IMAGES_PER_PART)
    return [HeaderJob(root=split.root, names=split.names[start : start + IMAGES_PER_PART]) for start in starts]


def read_headers(job: HeaderJob) -> list[Header]:
    """Read the headers of a job's images. Images without a readable header are left out; decoding will name them."""
    headers = []
    for index, name in enumerate(job.names):
        _go_to(index + 1)
        try:
            headers.append(read_header(job.root / name))
        except DataError:
            continue
    return headers


def plan_parts(split: FileSplit, half: Half, target: Target, folder: Path) -> list[Part]:
    """Divide the images of a half into parts."""
    parts = []
    for start in range(0, len(split.names), IMAGES_PER_PART):
        names = split.names[start : start + IMAGES_PER_PART]
        parts.append(
            Part(
                half=half,
                root=split.root,
                names=names,
                labels=split.labels[start : start + IMAGES_PER_PART],
                target=target,
                file=folder / f"{half}-{start:08d}-{_digest(split.root, names, target)}.npz",
            )
        )
    return parts


def decode_part(part: Part) -> int:
    """Decode the images of a part, and write them to its file atomically.

    Returns:
        The number of images in the part.

    Raises:
        StorageError: the file system refuses to read an image, or to write the part.
    """
    target = part.target
    images = np.zeros((len(part), target.height, target.width, target.channels), dtype=np.uint8)
    sizes = np.zeros((len(part), 2), dtype=np.int32)
    reasons = [""] * len(part)
    for index, name in enumerate(part.names):
        _go_to(index + 1)
        try:
            decoded = decode(part.root / name, target)
        except DataError as exc:
            reasons[index] = str(exc)
        else:
            images[index] = decoded.pixels
            sizes[index] = decoded.height, decoded.width
    content = io.BytesIO()
    np.savez(content, images=images, sizes=sizes, reasons=np.array(reasons, dtype=np.str_))
    write_whole(part.file, content.getvalue())
    return len(part)


def part_reasons(part: Part) -> tuple[str, ...]:
    """For each image of a decoded part why it could not be decoded; an empty text: it could.

    Raises:
        DataError: the part's file is damaged.
        StorageError: the file system refuses to read it.
    """
    return tuple(str(reason) for reason in _array(part, "reasons"))


def part_images(part: Part) -> NDArray[np.uint8]:
    """The images of a decoded part, uint8 (n, H, W, C). An image that could not be decoded is all zeros.

    Raises:
        DataError: the part's file is damaged.
        StorageError: the file system refuses to read it.
    """
    return _array(part, "images").astype(np.uint8, copy=False)


def part_sizes(part: Part) -> NDArray[np.int32]:
    """The original height and width of each image of a decoded part, int32 (n, 2), in pixels.

    Raises:
        DataError: the part's file is damaged.
        StorageError: the file system refuses to read it.
    """
    return _array(part, "sizes").astype(np.int32, copy=False)


def _array(part: Part, name: str) -> NDArray[np.generic]:
    try:
        with open_file(part.file) as file, np.load(file, allow_pickle=False) as arrays:
            array: NDArray[np.generic] = arrays[name]
            return array
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        # Removed, so that the next run decodes it again.
        remove(part.file)
        raise DataError(f"{part.file} was damaged ({exc}) and is removed: run the same command again") from exc


def _digest(root: Path, names: tuple[str, ...], target: Target) -> str:
    stats = [_stat(root / name) for name in names]
    content = json.dumps([_PART_VERSION, asdict(target), list(zip(names, stats, strict=True))])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = look_at(path)
    except OSError:
        found = None
    if found is None:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _begin(places: "_Places") -> None:
    """Initialise a process of the pool: it ends with its parent, even if that is killed, and ignores Ctrl-C."""
    _Here.places = places
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of a pool call this"
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
