"""Finding the official files of a data set, unpacked or still in their archives.

People keep them in many ways: the archives side by side, the unpacked folder, its parent, a folder of both. A reader
names the files that it needs; they may lie in the source or up to two folders below it.
"""

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdhpc.data.progress import Progress
from kdhpc.errors import DataError

_DEPTH = 2
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which a data set is published."""

    files: tuple[str, ...]
    """Files or folders that the reader needs."""
    archives: tuple[str, ...] = ()
    """Names of the official tar files that hold them."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A layout, found."""

    layout: Layout
    """Which one."""
    paths: tuple[Path, ...]
    """Where each of its files is, in the same order."""


def locate(source: Path, layouts: tuple[Layout, ...], scratch: Path, progress: Progress) -> Located:
    """Finds the first layout that is there whole, unpacking archives where it must.

    Args:
        source: a folder, or one of the archives (the others lie beside it).
        layouts: in order of preference.
        scratch: where archives are unpacked; what an earlier run unpacked there is used again.
        progress: told what is unpacked.

    Raises:
        DataError: nothing there, or an archive is damaged.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist: name the folder or archive that you downloaded")
    for layout in layouts:
        located = _locate_one(source, layout, layouts, scratch, progress)
        if located is not None:
            return located
    needed = "; or ".join(_described(layout) for layout in layouts)
    raise DataError(f"{source} does not hold the official files: needed are {needed}")


def _locate_one(
    source: Path, layout: Layout, layouts: tuple[Layout, ...], scratch: Path, progress: Progress
) -> Located | None:
    roots = [source] if source.is_dir() else []
    paths = [_find(roots, name) for name in layout.files]
    if None in paths:
        roots += [_unpacked(archive, scratch, progress) for archive in _archives(source, layout, layouts)]
        beside = None if source.is_dir() else source.parent
        paths = [_find(roots, name, beside) for name in layout.files]
    found = tuple(path for path in paths if path is not None)
    return Located(layout=layout, paths=found) if len(found) == len(layout.files) else None


def _archives(source: Path, layout: Layout, layouts: tuple[Layout, ...]) -> list[Path]:
    """The archives to unpack for a layout: its own; or, where the user named a file that no layout knows, that file."""
    folder = source if source.is_dir() else source.parent
    own = [folder / name for name in layout.archives if (folder / name).is_file()]
    if source.is_dir() or source in own:
        return own
    known = {name for each in layouts for name in each.archives}
    return [source] if layout.archives and source.name not in known else []


def _find(roots: list[Path], name: str, beside: Path | None = None) -> Path | None:
    folders = [folder for root in roots for folder in _folders(root, _DEPTH)] + ([beside] if beside else [])
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _folders(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth:
        with os.scandir(root) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for name in below:
            yield from _folders(root / name, depth - 1)


def _unpacked(archive: Path, scratch: Path, progress: Progress) -> Path:
    stat = archive.stat()
    target = scratch / f"{archive.name}-{stat.st_size}-{stat.st_mtime_ns}"
    if not target.exists():
        progress.say(f"unpacking {archive}")
        partial = scratch / f"{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _unpack(archive, partial)
        partial.rename(target)
    return target


def _unpack(archive: Path, target: Path) -> None:
    """Writes the regular files of an archive below ``target``; links and devices, which none has, are left out."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                inner = PurePosixPath(member.name)
                if inner.is_absolute() or ".." in inner.parts:
                    raise DataError(f"archive {archive} holds {member.name!r}, which leads outside: it is not official")
                _write_member(tar, member, target / inner)
    except _DAMAGED as exc:
        raise DataError(f"archive {archive} is damaged or not a tar file ({exc}): get it again") from exc


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        shutil.copyfileobj(content, out, length=1 << 20)


def _described(layout: Layout) -> str:
    archives = f" (or the archives {', '.join(layout.archives)})" if layout.archives else ""
    return ", ".join(layout.files) + archives
