"""The image file of a packed data set. Images are read from it by index, when they are needed.

They are read with ``pread`` and not through a memory map. If a disk fails, a memory map ends the process by a signal
(SIGBUS) without a message, and some file systems cannot map files at all. A failed ``pread`` gives an error and can be
tried again. The system's page cache serves both. See docs/decisions/0006.
"""

import math
import os
import weakref
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kdhpc.data.reading import open_file, read_from
from kdhpc.errors import DataError, StorageError

_HEADER = (1, 0)
"""Version of NumPy's file format in which packed arrays are written."""


def read_array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Read the header of a ``.npy`` file, up to the first byte of the array.

    Returns:
        The array's shape and type.

    Raises:
        ValueError: the file holds no array, or one that kdhpc cannot have written.
    """
    version = np.lib.format.read_magic(file)
    if version != _HEADER:
        raise ValueError(f"it has version {version} of NumPy's format")
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (StorageError, OSError):
        raise
    # The header is parsed as a Python literal, and damaged bytes may raise any error there.
    except Exception as exc:
        raise ValueError("it has a damaged header") from exc
    if is_fortran:
        raise ValueError("it is written column by column")
    return shape, dtype


class StoredImages:
    """Images of one size in a ``.npy`` file, uint8 (N, H, W, C). Several threads may read them at once.

    Args:
        path: The file.

    Raises:
        ValueError: the file does not hold such images.
        StorageError: the file system refuses.
        OSError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        with open_file(path) as file:
            shape, self.dtype = read_array_header(file)
            self._start = file.tell()
            length = os.fstat(file.fileno()).st_size
            if len(shape) != 4 or self.dtype != np.uint8 or length != self._start + math.prod(shape):
                raise ValueError(f"its {length:,} bytes hold {self.dtype} {shape}")
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self.shape = (shape[0], shape[1], shape[2], shape[3])
        self._path, self._bytes_each = path, math.prod(shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Read some images into memory, as uint8 (n, H, W, C).

        Raises:
            IndexError: an index is out of range.
            StorageError, DataError: as :meth:`read`.
        """
        rows = np.arange(len(self), dtype=np.int64)[chosen] if isinstance(chosen, slice) else chosen
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        self.read(rows, images)
        return images

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """Read all images into memory."""
        return self[:].astype(np.uint8 if dtype is None else dtype, copy=False)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Read some images into an array.

        Args:
            rows: int64 (n,), indices of the images, 0 to N - 1.
            out: uint8 (n, H, W, C), contiguous, which receives them.

        Raises:
            IndexError: an index is out of range.
            StorageError: the file system refuses.
            DataError: the file has become shorter since it was opened.
        """
        if len(rows) == 0:
            return
        if not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"images {rows.min()} to {rows.max()} of {len(self)}")
        free = out.data.cast("B")
        # Images that follow each other in the file are read in one call. Scoring reads a half in this order.
        begins = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist()]
        for begin, end, row in zip(begins, [*begins[1:], len(rows)], rows[begins].tolist(), strict=True):
            place = free[begin * self._bytes_each : end * self._bytes_each]
            self._fill(place, self._start + row * self._bytes_each)

    def _fill(self, place: memoryview, start: int) -> None:
        while place:
            num = read_from(self._path, partial(os.preadv, self._descriptor, [place], start))
            if num == 0:
                raise DataError(f"{self._path} has become shorter since it was opened: is it being prepared again?")
            place, start = place[num:], start + num


Images: TypeAlias = StoredImages | NDArray[np.uint8]
"""Images, uint8 (N, H, W, C), on the disk or in memory."""
