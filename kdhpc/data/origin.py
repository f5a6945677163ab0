"""Which source a packed data set was made from, so that preparing another source under its name is noticed."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from kdhpc.data.reading import look_at, read_from
from kdhpc.data.tree import Walk


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source as it was when it was prepared. Only preparing looks at it again, so it may be removed afterwards."""

    path: str
    """Absolute path, with links resolved."""
    listing: str
    """Digest of the names and lengths of all files in the source, also of files that links lead to."""


def origin_of(source: Path, *, exclude: Path) -> Origin:
    """Describe a source as it is now.

    Args:
        source: A file, or a folder of any depth. Hidden files do not count, nor do folders that
            `kdhpc.data.names.is_left_out` names.
        exclude: A folder that does not count either: the one with the packed data sets, which may lie in the source.

    Raises:
        StorageError: the file system refuses to read the source.
        OSError: there is no such file or folder.
    """
    path = source.resolve()
    # Python represents bytes of a name that are not UTF-8 as surrogates.
    listing = "\n".join(sorted(_lines(path, exclude.resolve()))).encode(errors="surrogateescape")
    return Origin(path=str(path), listing=hashlib.sha256(listing).hexdigest()[:16])


def _lines(path: Path, exclude: Path) -> list[str]:
    found = read_from(path, path.stat)
    if not stat.S_ISDIR(found.st_mode):
        return [f"{path.name} {found.st_size}"]
    walk = Walk(exclude=exclude)
    files = [f"{file.path.relative_to(path).as_posix()} {_length(file.path)}" for file in walk.files(path)]
    return files + [f"{link.relative_to(path).as_posix()} -> {link.resolve()}" for link in walk.repeated]


def _length(file: Path) -> int:
    """Length of a file in bytes; 0 of a broken link."""
    found = look_at(file)
    return 0 if found is None else found.st_size
