"""Finding the official files of a data set, unpacked or still in their archives.

People keep them in many ways: the archives side by side, the unpacked folder, its parent, a folder of both. A reader
names the files that it needs; they may lie in the source or up to two folders below it.
"""

import hashlib
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdhpc.data.names import is_left_out, shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import first_few
from kdhpc.data.reading import folders_in, is_folder, look_at, open_file, read_from
from kdhpc.errors import DataError, StorageError
from kdhpc.files.removing import remove_tree
from kdhpc.files.storage_errors import is_of_storage, storage_error
from kdhpc.files.writing import move

_DEPTH = 2
_PARTIAL = ".partial"
_FLUSHED_AT_ONCE = 16
_HASHED_AT_ONCE = 1 << 22
_MOST_MEMBERS = 1_000_000
_MOST_BYTES = 1 << 34
"""Largest unpacked size of an archive. The largest published archive has 2 GB."""
_LONGEST_NAME = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which a data set is published."""

    files: tuple[str, ...]
    """Files or folders that the reader needs."""
    archives: tuple[str, ...] = ()
    """Names of the official tar files that hold them."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where the files of a layout are."""

    layout: Layout
    """Which one."""
    paths: tuple[Path, ...]
    """Where each of its files is, in the same order."""
    archives: tuple[Path, ...] = ()
    """The archives that were unpacked for it."""


def locate(source: Path, layouts: tuple[Layout, ...], scratch: Path, progress: Progress) -> Located:
    """Finds the first layout of which all files are there, and unpacks archives if necessary.

    Args:
        source: a folder, or one of the archives (the others lie beside it).
        layouts: in order of preference.
        scratch: where archives are unpacked; what an earlier run unpacked there is used again.
        progress: told what is unpacked.

    Raises:
        DataError: files are missing (the message names them), or an archive is damaged; nothing was unpacked.
        StorageError: a file system refuses to read the source, or to write what is unpacked.
    """
    if look_at(source) is None:
        raise DataError(f"{source} does not exist: name the folder or archive that you downloaded")
    search = _Search(source, layouts, scratch, progress)
    missing = []
    for layout in layouts:
        missing.append(search.missing(layout))
        if not missing[-1]:
            return search.located(layout)
    raise DataError(f"{source} does not hold the official files: {_told(layouts, missing)}")


class _Search:
    """Looks for layouts in what lies in a folder, and in the listings of archives before it unpacks them."""

    def __init__(self, source: Path, layouts: tuple[Layout, ...], scratch: Path, progress: Progress) -> None:
        self._source = source
        self._layouts = layouts
        self._scratch = scratch
        self._progress = progress
        self._roots = [source] if is_folder(source) else []
        self._beside = None if self._roots else source.parent
        self._listings: dict[Path, list[PurePosixPath]] = {}

    def missing(self, layout: Layout) -> tuple[str, ...]:
        """The files of a layout that are neither there nor in an archive."""
        if self._is_unpacked(layout):
            return ()
        archives = _archives(self._source, layout, self._layouts)
        targets = [_target(archive, self._scratch) for archive in archives]
        roots = [*self._roots, *(target for target in targets if look_at(target) is not None)]
        packed = [archive for archive, target in zip(archives, targets, strict=True) if look_at(target) is None]
        listed = [path for archive in packed for path in self._listing(archive)]
        return tuple(
            name
            for name in layout.files
            if _find(roots, name, self._beside) is None and not _lists(listed, PurePosixPath(name))
        )

    def located(self, layout: Layout) -> Located:
        """A layout of which nothing is missing."""
        archives = [] if self._is_unpacked(layout) else _archives(self._source, layout, self._layouts)
        roots = [*self._roots, *(_unpacked(archive, self._scratch, self._progress) for archive in archives)]
        paths = [_find(roots, name, self._beside) for name in layout.files]
        return Located(layout=layout, paths=tuple(path for path in paths if path is not None), archives=tuple(archives))

    def _is_unpacked(self, layout: Layout) -> bool:
        return None not in [_find(self._roots, name) for name in layout.files]

    def _listing(self, archive: Path) -> list[PurePosixPath]:
        if archive not in self._listings:
            self._progress.say(f"looking into {archive}")
            with _opened(archive) as tar:
                self._listings[archive] = [inner for member, inner in _members(tar, archive) if _is_kept(member)]
        return self._listings[archive]


def _archives(source: Path, layout: Layout, layouts: tuple[Layout, ...]) -> list[Path]:
    """The archives to unpack for a layout: its own; or, where the user named a file that no layout knows, that file."""
    names_folder = is_folder(source)
    folder = source if names_folder else source.parent
    own = [folder / name for name in layout.archives if _is_file(folder / name)]
    if names_folder or source in own:
        return own
    known = {name for each in layouts for name in each.archives}
    return [source] if layout.archives and source.name not in known else []


def _find(roots: list[Path], name: str, beside: Path | None = None) -> Path | None:
    folders = [folder for root in roots for folder in _folders(root, _DEPTH)] + ([beside] if beside else [])
    return next((folder / name for folder in folders if look_at(folder / name) is not None), None)


def _folders(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth:
        for name in folders_in(root):
            if not is_left_out(name):
                yield from _folders(root / name, depth - 1)


def _is_file(path: Path) -> bool:
    found = look_at(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def _lists(listing: list[PurePosixPath], name: PurePosixPath) -> bool:
    """Whether a listing has a file or folder, as deep as `_find` would find it, not below a hidden folder."""
    size = len(name.parts)
    return any(
        path.parts[depth : depth + size] == name.parts and not any(part.startswith(".") for part in path.parts[:depth])
        for path in listing
        for depth in range(_DEPTH + 1)
    )


def _target(archive: Path, scratch: Path) -> Path:
    """Where an archive is unpacked."""
    found = read_from(archive, archive.stat)
    return scratch / f"{archive.name}-{found.st_size}-{found.st_mtime_ns}"


def _unpacked(archive: Path, scratch: Path, progress: Progress) -> Path:
    target = _target(archive, scratch)
    if look_at(target) is None:
        progress.say(f"unpacking {archive}")
        # A name of this run alone: what an earlier run left may stay as long as a process has a file of it open.
        partial = scratch / f"{target.name}.{secrets.token_hex(4)}{_PARTIAL}"
        for left in scratch.glob(f"*{_PARTIAL}"):
            remove_tree(left)
        try:
            _unpack(archive, partial, progress)
            move(partial, target)
        except BaseException:
            remove_tree(partial)
            raise
    return target


def _unpack(archive: Path, target: Path, progress: Progress) -> None:
    """Write the files of an archive below ``target``; hard links as copies. Other links and devices are left out."""
    written: dict[Path, None] = {}
    left_out: list[str] = []
    with _opened(archive) as tar:
        for member, inner in _members(tar, archive):
            path = target / inner
            if member.isfile():
                _write_member(tar, member, path)
            elif member.islnk():
                _write_copy(target / _inner(member.linkname, archive), path, written, archive)
            else:
                left_out += [] if member.isdir() else [member.name]
                continue
            written[path] = None
    if left_out:
        progress.say(f"left out of {archive}, symbolic links or devices: {first_few(left_out)}")
    # After all are written, and many at once: this is several times faster than flushing each after it is written.
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as threads:
        for _ in threads.map(_flush, written):
            pass


class _Member(tarfile.TarInfo):
    """A member of an archive. One whose name is so long that it could fill the memory is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if not (member.isfile() or member.islnk()) and member.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with open_file(archive) as file, tarfile.open(fileobj=file, tarinfo=_Member) as tar:
            yield tar
    except (DataError, StorageError):
        raise
    # On a damaged archive, decoders may raise anything.
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise DataError(f"archive {archive} cannot be read: {exc.strerror}") from exc
        raise DataError(f"archive {archive} is damaged or not a tar file ({shown(str(exc))}): get it again") from exc


def _members(tar: tarfile.TarFile, archive: Path) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yield the members of an archive with their paths. More, or larger ones, than a data set may have are refused."""
    num_bytes = 0
    for number, member in enumerate(tar):
        num_bytes += member.size
        _check_size(archive, number, num_bytes)
        yield member, _inner(member.name, archive)
    # Read to the end, where gzip keeps its checksum: only this shows damage that is in nothing but pixels.
    assert tar.fileobj is not None, "it is open"
    while block := tar.fileobj.read(_HASHED_AT_ONCE):
        num_bytes += len(block)
        _check_size(archive, 0, num_bytes)


def _check_size(archive: Path, num_members: int, num_bytes: int) -> None:
    if num_members >= _MOST_MEMBERS or num_bytes > _MOST_BYTES:
        raise DataError(
            f"archive {archive} unpacks to more than {_MOST_MEMBERS:,} files or {_MOST_BYTES:,} bytes: "
            "it is not official; unpack it yourself if you trust it"
        )


def _is_kept(member: tarfile.TarInfo) -> bool:
    return member.isfile() or member.islnk()


def _inner(name: str, archive: Path) -> PurePosixPath:
    inner = PurePosixPath(name)
    if inner.is_absolute() or ".." in inner.parts or "\0" in name:
        raise DataError(f"archive {archive} holds {shown(name)!r}, which leads outside: it is not official")
    return inner


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            shutil.copyfileobj(content, out, length=1 << 20)


def _write_copy(linked: Path, path: Path, written: dict[Path, None], archive: Path) -> None:
    """What a hard link in an archive stands for; archives hold the file before the link."""
    if linked not in written:
        raise DataError(f"archive {archive} links {shown(path.name)} to a file that it does not hold: get it again")
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(linked, path)


def file_md5(path: Path) -> str:
    """The MD5 sum of a file, in hexadecimal.

    Raises:
        StorageError: the file system refuses to read it.
        DataError: it cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open_file(path) as file:
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Have a file on the disk, before the folder's name says that it is whole."""
    with _written(path), path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        # Damaged archives, too, raise errors of this class, but without a number of the system's.
        if is_of_storage(exc):
            raise storage_error(exc, path, "written") from exc
        if exc.errno is not None:
            raise DataError(f"{path} cannot be written: {exc.strerror}") from exc
        raise


def _told(layouts: tuple[Layout, ...], missing: list[tuple[str, ...]]) -> str:
    """For a message: what is missing of the layout that is most complete, and what all layouts consist of."""
    needed = f"needed are {'; or '.join(map(_described, layouts))}"
    pairs = zip(layouts, missing, strict=True)
    layout, lacking = min(pairs, key=lambda pair: len(pair[1]) / len(pair[0].files))
    if len(lacking) == len(layout.files):
        return needed
    return f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing; {needed}"


def _described(layout: Layout) -> str:
    archives = f" (or the archives {', '.join(layout.archives)})" if layout.archives else ""
    return ", ".join(layout.files) + archives
