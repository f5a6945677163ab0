"""Lists and records in MATLAB files, as Stanford's data sets have them.

No library is used: those written in C trust the lengths and types that a file states, so that a damaged or forged file
can crash the process. Here every length is checked against the bytes that there are. Of the format's level 5 (MATLAB 5
to 7.2), arrays of numbers and text, cell arrays and structures are read.

Source: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.names import shown
from kdhpc.data.reading import read_file
from kdhpc.errors import DataError

_MAX_BYTES = 1 << 28
"""Largest size of a file, and of all that is decompressed from it."""
_MAX_DEPTH = 8
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 3: "utf-16", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR, _FIRST_NUMBER, _LAST_NUMBER = 1, 2, 4, 6, 15
_COMPLEX = 0x0800

_Value = TypeVar("_Value", str, int)


@dataclass(frozen=True)
class _Matrix:
    """An array whose header is read, but not its content."""

    kind: int
    """MATLAB's number for the class of the array: 1 is a cell array, 2 a structure, 4 text, 6 to 15 numbers."""
    is_complex: bool
    """It has an imaginary part."""
    shape: tuple[int, ...]
    """Its dimensions."""
    name: str
    """Name of the variable; empty for an array inside another one."""
    rest: memoryview
    """The bytes after the header, which hold the content."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class MatFile:
    """A .mat file, open."""

    path: Path
    """Where it lies."""
    variables: dict[str, _Matrix]
    """Its variables by name."""
    elements: "_Elements"
    """Reads their content."""

    @classmethod
    def load(cls, path: Path) -> "MatFile":
        """Reads a file.

        Raises:
            DataError: it is damaged, or not of level 5.
            StorageError: the file system refuses to read it.
        """
        try:
            elements = _Elements(read_file(path, limit=_MAX_BYTES))
            found = [matrix for matrix in elements.variables() if matrix.name]
        except (OSError, ValueError) as exc:
            raise _damaged(path, exc) from exc
        return cls(path=path, variables={matrix.name: matrix for matrix in found}, elements=elements)

    def strings(self, variable: str, field: str | None = None) -> list[str]:
        """A list of strings: a cell array, or one field of a structure array.

        Args:
            variable: Name of the variable.
            field: Name of the field; None: the variable itself is the list.

        Raises:
            DataError: there is no such variable or field, or it holds something else.
        """
        return [self._checked(cell, str, variable) for cell in self._cells(variable, field)]

    def integers(self, variable: str, field: str | None = None) -> NDArray[np.int64]:
        """A list of integers, (N,): an array, or one field of a structure array.

        Args:
            variable: Name of the variable.
            field: Name of the field; None: the variable itself is the list.

        Raises:
            DataError: there is no such variable or field, or it holds something else.
        """
        numbers = [self._checked(cell, int, variable) for cell in self._cells(variable, field)]
        return np.array(numbers, dtype=np.int64)

    def _cells(self, variable: str, field: str | None) -> list[object]:
        if variable not in self.variables:
            raise DataError(f"{self.path} has no variable {variable!r}: get the official file")
        matrix = self.variables[variable]
        if sum(size != 1 for size in matrix.shape) > 1:
            raise DataError(f"{self.path} has {variable!r} of shape {matrix.shape} where a list should be")
        try:
            if field is None:
                return self.elements.cells(matrix)
            column = self.elements.column(matrix, field) if matrix.kind == _STRUCT else None
        except ValueError as exc:
            raise _damaged(self.path, exc) from exc
        if column is None:
            raise DataError(f"{self.path} has no field {field!r} in {variable!r}: get the official file")
        return column

    def _checked(self, value: object, kind: type[_Value], variable: str) -> _Value:
        # MATLAB stores numbers as doubles, unless the author of the file chose another type.
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            value = int(value)
        if not isinstance(value, kind) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
            raise DataError(f"{self.path} has {shown(repr(value))} in {variable!r} where a {kind.__name__} should be")
        return value


def _damaged(path: Path, exc: Exception) -> DataError:
    return DataError(f"{path} is damaged or not a MATLAB file ({shown(str(exc))}): get it again")


class _Elements:
    """Reads a file's data elements, the format's units of type, length and content.

    Methods raise ``ValueError`` for an element that is damaged, or longer than the bytes that there are.
    """

    def __init__(self, content: bytes) -> None:
        if content[:8] == b"\x89HDF\r\n\x1a\n" or content[:10] == b"MATLAB 7.3":
            raise ValueError("it is of MATLAB 7.3: save it with -v7")
        marker = content[126:_HEADER_BYTES]
        if marker not in (b"IM", b"MI"):
            raise ValueError("it has no header of level 5")
        self._order = "<" if marker == b"IM" else ">"
        self._content = memoryview(content)[_HEADER_BYTES:]
        self._left = _MAX_BYTES

    def variables(self) -> Iterator[_Matrix]:
        """Yield the variables of the file, decompressed. Their content is not read yet."""
        for kind, data in self._elements(self._content):
            if kind == _COMPRESSED:
                kind, data = next(self._elements(self._unpacked(data)), (0, memoryview(b"")))
            if kind == _MATRIX and data:
                yield self._matrix(data)

    def cells(self, matrix: _Matrix) -> list[object]:
        """The items of an array, column by column: each a number, a text, or None for anything else."""
        if matrix.kind == _CELL:
            parts = [self._matrix(data) for _, data in self._only(matrix.rest, _MATRIX, matrix.size)]
            return [self._value(part) for part in parts]
        if matrix.kind == _CHAR:
            return [self._text(matrix)]
        return list(self._numbers(matrix))

    def column(self, matrix: _Matrix, field: str) -> list[object] | None:
        """One field of all items of a structure array; None: there is no such field."""
        elements = self._elements(matrix.rest)
        length = self._small_number(_one(elements))
        names = bytes(_one(elements)[1])
        if not 1 <= length <= 1 << 10 or len(names) % length:
            raise ValueError("its records have damaged names")
        fields = [names[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
        values = [data for kind, data in elements if kind == _MATRIX]
        if len(values) != matrix.size * len(fields):
            raise ValueError(f"{matrix.size:,} records of {len(fields):,} fields, but {len(values):,} values")
        if field not in fields:
            return None
        mine = values[fields.index(field) :: len(fields)]
        return [self._value(self._matrix(data)) if data else None for data in mine]

    def _value(self, matrix: _Matrix, depth: int = 0) -> object:
        """The single number or the text in an array, also inside of nested single cells; None for anything else."""
        if matrix.kind == _CHAR:
            return self._text(matrix)
        if matrix.size != 1 or depth > _MAX_DEPTH:
            return None
        if matrix.kind == _CELL:
            ((_, data),) = self._only(matrix.rest, _MATRIX, 1)
            return self._value(self._matrix(data), depth + 1)
        return self._numbers(matrix)[0] if _FIRST_NUMBER <= matrix.kind <= _LAST_NUMBER else None

    def _text(self, matrix: _Matrix) -> str | None:
        if matrix.size and (len(matrix.shape) != 2 or matrix.shape[0] != 1):
            return None
        kind, data = _one(self._elements(matrix.rest))
        if kind not in _TEXTS:
            raise ValueError(f"text of type {kind}")
        ending = "" if _TEXTS[kind] in ("latin-1", "utf-8") else ("-le" if self._order == "<" else "-be")
        return bytes(data).decode(_TEXTS[kind] + ending)

    def _numbers(self, matrix: _Matrix) -> list[int | float]:
        if not _FIRST_NUMBER <= matrix.kind <= _LAST_NUMBER or matrix.is_complex:
            raise ValueError(f"array {matrix.name!r} of class {matrix.kind}, which is not read")
        kind, data = _one(self._elements(matrix.rest))
        if kind not in _NUMBERS:
            raise ValueError(f"numbers of type {kind}")
        dtype = np.dtype(self._order + _NUMBERS[kind])
        if len(data) != matrix.size * dtype.itemsize:
            raise ValueError(f"{len(data):,} bytes for {matrix.size:,} numbers")
        numbers: list[int | float] = np.frombuffer(data, dtype=dtype).tolist()
        return numbers

    def _matrix(self, data: memoryview) -> _Matrix:
        if not data:
            return _Matrix(_FIRST_NUMBER, False, (0, 0), "", data)
        elements = self._elements(data)
        flags = _one(elements)[1]
        if len(flags) < 4:
            raise ValueError("an array without flags")
        (word,) = struct.unpack_from(f"{self._order}I", flags)
        if not _CELL <= word & 0xFF <= _LAST_NUMBER:
            # Objects and functions, whose format differs, and of which no list is made.
            return _Matrix(word & 0xFF, False, (0, 0), "", data[:0])
        sizes = _one(elements)[1]
        if len(sizes) % 4 or not 2 <= len(sizes) // 4 <= 8:
            raise ValueError("an array of damaged dimensions")
        shape = struct.unpack(f"{self._order}{len(sizes) // 4}i", sizes)
        if min(shape) < 0 or math.prod(shape) > _MAX_BYTES:
            raise ValueError(f"an array of dimensions {shape}")
        name = bytes(_one(elements)[1]).decode("latin-1")
        return _Matrix(word & 0xFF, bool(word & _COMPLEX), shape, name, data[data.nbytes - elements.left :])

    def _only(self, data: memoryview, kind: int, num: int) -> list[tuple[int, memoryview]]:
        found = list(self._elements(data))
        if len(found) != num or any(each != kind for each, _ in found):
            raise ValueError(f"{len(found):,} elements where {num:,} should be")
        return found

    def _small_number(self, element: tuple[int, memoryview]) -> int:
        if len(element[1]) != 4:
            raise ValueError("a number of damaged length")
        return int(struct.unpack(f"{self._order}i", element[1])[0])

    def _unpacked(self, data: memoryview) -> memoryview:
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(data, self._left + 1)
        except zlib.error as exc:
            raise ValueError(str(exc)) from exc
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MAX_BYTES:,} bytes")
        if not unpacker.eof:
            raise ValueError("it is cut short")
        return memoryview(content)

    def _elements(self, data: memoryview) -> "_Walk":
        return _Walk(data, self._order)


class _Walk(Iterator[tuple[int, memoryview]]):
    """The data elements in some bytes, one after the other: type and content."""

    def __init__(self, data: memoryview, order: str) -> None:
        self._data, self._order = data, order

    @property
    def left(self) -> int:
        """Number of bytes that are not read yet."""
        return len(self._data)

    def __next__(self) -> tuple[int, memoryview]:
        if not self._data:
            raise StopIteration
        if len(self._data) < 8:
            raise ValueError("it is cut short")
        word, length = struct.unpack_from(f"{self._order}2I", self._data)
        start = 8
        if word >> 16:  # A small element: its content, up to four bytes, stands where the length would.
            word, length, start = word & 0xFFFF, word >> 16, 4
            if length > 4:
                raise ValueError("a short element of damaged length")
        if length > len(self._data) - start:
            raise ValueError("it is cut short")
        content = self._data[start : start + length]
        # All elements but compressed ones are padded to a multiple of eight bytes.
        end = start + length if word == _COMPRESSED else -(-(start + length) // 8) * 8
        self._data = self._data[end:]
        return word, content


def _one(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None:
        raise ValueError("it is cut short")
    return found
