"""Where a packed data set came from, so that a name never stands for images of another folder."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kdhpc.data.reading import files_below, look_at, read_from


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source as it was when it was prepared. It may be gone since: nothing but preparing looks at it."""

    path: str
    """Absolute, links resolved."""
    listing: str
    """Digest of the names and lengths of its files."""


def origin_of(source: Path, *, but: Path) -> Origin:
    """What a source is now.

    Args:
        source: A file, or a folder of any depth.
        but: A folder in it that is left out, with all that is hidden: the packed data sets may lie there.

    Raises:
        StorageError: the file system refuses to read it.
        OSError: there is no such file.
    """
    path = source.resolve()
    lines = sorted(f"{name} {length}" for name, length in _files(path, but.resolve()))
    return Origin(path=str(path), listing=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16])


def _files(path: Path, but: Path) -> list[tuple[str, int]]:
    found = read_from(path, path.stat)
    if not stat.S_ISDIR(found.st_mode):
        return [(path.name, found.st_size)]

    def enters(folder: "os.DirEntry[str]") -> bool:
        return not (folder.name.startswith(".") or folder.is_symlink() or Path(folder.path) == but)

    return [
        (file.relative_to(path).as_posix(), _length(file))
        for file in files_below(path, enters)
        if not file.name.startswith(".")
    ]


def _length(file: Path) -> int:
    """Of a link that leads nowhere 0: it has a name only."""
    found = look_at(file)
    return 0 if found is None else found.st_size
