"""The images of a packed data set: a file of which some are read whenever they are asked for.

They are read by calls of their own and not by a memory mapping: where a disk fails, a mapping ends the process by a
signal (SIGBUS), without a word, and some file systems cannot map files at all. A call says what is wrong, and can be
tried again. The system keeps what was read in memory either way. See docs/decisions/0006.
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
"""Version of NumPy's format that packed arrays are written in."""


def read_array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of the array in a ``.npy`` file, which is read up to the array's first byte.

    Raises:
        ValueError: it holds no array, or one that kdhpc has not written.
    """
    version = np.lib.format.read_magic(file)
    if version != _HEADER:
        raise ValueError(f"it has version {version} of NumPy's format")
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (StorageError, OSError):
        raise
    # A header is a Python literal, which fails in whatever way its bytes happen to say.
    except Exception as exc:
        raise ValueError("it has a damaged header") from exc
    if is_fortran:
        raise ValueError("it is written column by column")
    return shape, dtype


class StoredImages:
    """Images of one size in a ``.npy`` file, uint8 (N, H, W, C). Threads may share them.

    Args:
        path: The file.

    Raises:
        ValueError: it does not hold such images.
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
        """Some images, uint8 (n, H, W, C), in memory.

        Raises:
            IndexError: there are not so many images.
            StorageError, DataError: as :meth:`read`.
        """
        rows = np.arange(len(self), dtype=np.int64)[chosen] if isinstance(chosen, slice) else chosen
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        self.read(rows, images)
        return images

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """All of them, in memory."""
        return self[:].astype(np.uint8 if dtype is None else dtype, copy=False)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Read some images into an array.

        Args:
            rows: int64 (n,), 0 to N - 1.
            out: uint8 (n, H, W, C), contiguous.

        Raises:
            IndexError: there are not so many images.
            StorageError: the file system refuses.
            DataError: the file has become shorter.
        """
        if len(rows) == 0:
            return
        if not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"images {rows.min()} to {rows.max()} of {len(self)}")
        free = out.data.cast("B")
        # Neighbours are read at once: the images of a half are scored in order.
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
"""uint8 (N, H, W, C), on the disk or in memory."""
