"""Where a packed data set came from, so that a name never stands for images of another folder."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


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
        OSError: it cannot be read.
    """
    path = source.resolve()
    lines = sorted(f"{name} {length}" for name, length in _files(path, but.resolve()))
    return Origin(path=str(path), listing=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16])


def _files(path: Path, but: Path) -> list[tuple[str, int]]:
    if not path.is_dir():
        return [(path.name, path.stat().st_size)]
    found = []
    for parent, folders, names in os.walk(path):
        here = Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and here / name != but]
        shown = [here / name for name in names if not name.startswith(".")]
        # A link that leads nowhere has a name only.
        found += [(file.relative_to(path).as_posix(), file.stat().st_size if file.exists() else 0) for file in shown]
    return found
