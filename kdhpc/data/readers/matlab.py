"""Lists and records in MATLAB files, as Stanford's data sets have them."""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdhpc.errors import DataError
from kdhpc.files import read_whole

_Value = TypeVar("_Value", str, int)


@dataclass(frozen=True, kw_only=True)
class MatFile:
    """A .mat file, read."""

    path: Path
    """Where it lies."""
    variables: dict[str, NDArray[np.void]]
    """Its variables by name."""

    @classmethod
    def load(cls, path: Path) -> "MatFile":
        """Reads a file.

        Raises:
            DataError: it is damaged, or SciPy is not installed.
            StorageError: the file system refuses to read it.
        """
        try:
            from scipy.io import loadmat
            from scipy.io.matlab import MatReadError
        except ImportError as exc:
            raise DataError(f"reading {path.name} needs SciPy: pip install 'kdhpc[finegrained]'") from exc
        try:
            contents = loadmat(io.BytesIO(read_whole(path)))
        # SciPy's reader fails on damaged files in whatever way their bytes happen to say.
        except (MatReadError, OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error) as exc:
            raise DataError(f"{path} is damaged or not a MATLAB file ({exc}): get it again") from exc
        arrays = {key: value for key, value in contents.items() if isinstance(value, np.ndarray)}
        return cls(path=path, variables=arrays)

    def strings(self, variable: str, field: str | None = None) -> list[str]:
        """A list of strings: a cell array, or one field of an array of records."""
        return [self._checked(cell, str, variable) for cell in self._cells(variable, field)]

    def integers(self, variable: str, field: str | None = None) -> NDArray[np.int64]:
        """A list of integers: an array, or one field of an array of records."""
        numbers = [self._checked(cell, int, variable) for cell in self._cells(variable, field)]
        return np.array(numbers, dtype=np.int64)

    def _cells(self, variable: str, field: str | None) -> list[object]:
        if variable not in self.variables:
            raise DataError(f"{self.path} has no variable {variable!r}: get the official file")
        column = self.variables[variable]
        if field is not None:
            if column.dtype.names is None or field not in column.dtype.names:
                raise DataError(f"{self.path} has no field {field!r} in {variable!r}: get the official file")
            column = column[field]
        return list(column.reshape(-1))

    def _checked(self, cell: object, kind: type[_Value], variable: str) -> _Value:
        array = np.asarray(cell)
        value = array.item() if array.size == 1 else None
        # MATLAB's numbers are doubles unless someone took care.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind):
            raise DataError(f"{self.path} has {cell!r} in {variable!r} where a {kind.__name__} should be")
        return value
