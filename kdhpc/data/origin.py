"""Where a packed data set came from, so that a name never stands for images of another folder."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from kdhpc.data.reading import look_at, read_from
from kdhpc.data.tree import Walk


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source as it was when it was prepared. It may be gone since: nothing but preparing looks at it."""

    path: str
    """Absolute, links resolved."""
    listing: str
    """Digest of the names and lengths of its files, and of those that links in it lead to."""


def origin_of(source: Path, *, exclude: Path) -> Origin:
    """What a source is now.

    Args:
        source: A file, or a folder of any depth.
        exclude: A folder in it that is left out, with all that is hidden or left behind by others: the packed data sets
            may lie there.

    Raises:
        StorageError: the file system refuses to read it.
        OSError: there is no such file.
    """
    path = source.resolve()
    # Names in another encoding are bytes, which Python keeps as surrogates.
    listing = "\n".join(sorted(_lines(path, exclude.resolve()))).encode(errors="surrogateescape")
    return Origin(path=str(path), listing=hashlib.sha256(listing).hexdigest()[:16])


def _lines(path: Path, exclude: Path) -> list[str]:
    found = read_from(path, path.stat)
    if not stat.S_ISDIR(found.st_mode):
        return [f"{path.name} {found.st_size}"]
    walk = Walk(exclude=exclude)
    files = [f"{file.path.relative_to(path).as_posix()} {_length(file.path)}" for file in walk.files(path)]
    return files + [f"{link.relative_to(path).as_posix()} -> {link.resolve()}" for link in walk.again]


def _length(file: Path) -> int:
    """Of a link that leads nowhere 0: it has a name only."""
    found = look_at(file)
    return 0 if found is None else found.st_size
