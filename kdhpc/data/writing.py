"""Writing an array of a packed data set: in pieces, hashed while it is written, and read back to compare."""

import errno
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.packed import FileRecord, Half, file_sha256
from kdhpc.files.writing import replacing


def write_array(
    folder: Path, half: Half, name: str, shape: tuple[int, ...], dtype: str, pieces: Iterable[NDArray[np.generic]]
) -> FileRecord:
    """Write a ``.npy`` file piece by piece, so that the array need not fit in memory.

    Args:
        folder: Folder of the data set.
        half: The half that the array belongs to.
        name: Name of the array, without suffix.
        shape: Shape of the whole array.
        dtype: Its type with the byte order, as NumPy spells it: ``|u1``, ``<i4``, ``<i8``.
        pieces: The array, divided along its first dimension.

    Returns:
        The record of the file for the manifest.

    Raises:
        StorageError: the file system refuses, or what is read back is not what was written.
    """
    path = folder / half / f"{name}.npy"
    digest, rows = hashlib.sha256(), 0
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            header = _header(shape, dtype)
            digest.update(header)
            file.write(header)
            for piece in pieces:
                content = np.ascontiguousarray(piece, dtype=dtype).data.cast("B")
                digest.update(content)
                file.write(content)
                rows += len(piece)
            file.flush()
            os.fsync(file.fileno())
            length = file.tell()
        assert rows == shape[0], f"{path}: {rows} rows written, {shape[0]} announced"
        # The checksum in the manifest must be that of the file on the disk.
        if file_sha256(temporary) != digest.hexdigest():
            raise OSError(errno.EIO, "what was written is not what is read back")
    return FileRecord(path=f"{half}/{name}.npy", bytes=length, sha256=digest.hexdigest())


def array_record(
    half: Half, name: str, shape: tuple[int, ...], dtype: str, pieces: Iterable[NDArray[np.generic]]
) -> FileRecord:
    """The record that :func:`write_array` would return, without writing the file. Arguments as there."""
    header = _header(shape, dtype)
    digest, length = hashlib.sha256(header), len(header)
    for piece in pieces:
        content = np.ascontiguousarray(piece, dtype=dtype).data.cast("B")
        digest.update(content)
        length += len(content)
    return FileRecord(path=f"{half}/{name}.npy", bytes=length, sha256=digest.hexdigest())


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()
