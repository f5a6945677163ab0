"""Writing an array of the packed form: streamed to disk, and hashed on the way."""

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.packed import FileRecord, Half


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
    """
    path = folder / half / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, rows = hashlib.sha256(), 0
    with path.open("wb") as file:
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
    return FileRecord(path=f"{half}/{name}.npy", bytes=length, sha256=digest.hexdigest())


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()
