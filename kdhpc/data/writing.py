"""Writing an array of the packed form: streamed to the disk, hashed on the way, and read back."""

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
    """Writes one ``.npy`` a piece at a time, so that it need not fit in memory.

    Args:
        folder: the data set's folder.
        half: which half the array belongs to.
        name: its name, without suffix.
        shape: of all pieces together.
        dtype: as NumPy spells it with its byte order: ``|u1``, ``<i4``, ``<i8``.
        pieces: cuts along the first dimension, in order.

    Raises:
        StorageError: the file system refuses, or gives back something else than was written.
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
        # The manifest vouches for what is on the disk.
        if file_sha256(temporary) != digest.hexdigest():
            raise OSError(errno.EIO, "what was written is not what is read back")
    return FileRecord(path=f"{half}/{name}.npy", bytes=length, sha256=digest.hexdigest())


def array_record(
    half: Half, name: str, shape: tuple[int, ...], dtype: str, pieces: Iterable[NDArray[np.generic]]
) -> FileRecord:
    """The record of the file that :func:`write_array` would write, without writing it; arguments as there."""
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
