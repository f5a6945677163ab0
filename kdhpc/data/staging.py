"""The hidden folder in which a data set is made, and how the finished data set is moved to its final folder.

The hidden folder, ``.<name>.partial``, lies beside the final one. A run may be killed at any time. What it leaves in
the hidden folder cannot be opened as a data set, and the next run goes on with it. Each run uses names of its own
there: some file systems keep hidden files, and so their folders, for as long as a process has removed files open.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.config.own_datasets import MANIFEST
from kdhpc.data.packed import check_files, hidden_folder, read_manifest
from kdhpc.data.progress import Progress
from kdhpc.data.reading import look_at, names_in
from kdhpc.errors import DataError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.removing import remove, remove_tree
from kdhpc.files.writing import move

_PACKED, _REPLACED = "packed", "replaced"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Paths in the hidden folder of a data set that is being made."""

    root: Path
    """The hidden folder, ``.<name>.partial``."""
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """Random name of this run. Where there are no locks, two runs never write the same array."""

    @property
    def unpacked(self) -> Path:
        """Folder for files unpacked from archives."""
        return self.root / "unpacked"

    @property
    def parts(self) -> Path:
        """Folder for decoded images, in parts."""
        return self.root / "parts"

    @property
    def packed(self) -> Path:
        """Folder for the packed data set, until it is moved to its final place."""
        return self.root / f"{_PACKED}-{self.run}"

    @property
    def replaced(self) -> Path:
        """Folder for an earlier data set of the same name, which the new one replaces."""
        return self.root / f"{_REPLACED}-{self.run}"


@contextmanager
def staged(folder: Path, progress: Progress) -> Iterator[Stage]:
    """Lock the hidden folder of a data set for this process. It is removed if the block succeeds.

    If an earlier run was killed while it replaced the data set, the replacement is completed first.

    Args:
        folder: Final folder of the data set.
        progress: Receives a message if the file system has no locks.

    Raises:
        DataError: another process has locked it.
        StorageError: the file system refuses.
    """
    stage = Stage(root=hidden_folder(folder))
    lock = _lock(folder)
    if lock is None:
        raise DataError(f"another process prepares {folder} now: wait for it, or use another --name")
    with lock:
        if lock.problem is not None:
            progress.say(f"{folder.parent} has no locks ({lock.problem}): do not prepare {folder.name} twice at a time")
        _complete(stage.root, folder)
        if lock.problem is None:
            _discard(stage.root)
        try:
            yield stage
        except BaseException:
            _leave(stage)
            raise
        _discard(stage.root)
        remove_tree(stage.root)


def tidy(folder: Path) -> None:
    """Remove what earlier runs have left in the hidden folder of a finished data set, unless it is locked."""
    with suppress(StorageError):
        if look_at(hidden_folder(folder)) is None:
            return
        lock = _lock(folder)
        if lock is None:
            return
        with lock:
            if lock.problem is None:
                _discard(hidden_folder(folder))
                remove_tree(hidden_folder(folder))


def publish(stage: Stage, folder: Path) -> None:
    """Move the finished data set to its final folder. An earlier data set there moves to the hidden folder.

    Raises:
        StorageError: the file system refuses. The earlier data set is moved back, now or by the next run.
    """
    try:
        if look_at(folder) is not None:
            move(folder, stage.replaced)
        move(stage.packed, folder)
    except BaseException:
        with suppress(StorageError):
            if look_at(folder) is None and look_at(stage.replaced) is not None:
                move(stage.replaced, folder)
        raise


def _lock(folder: Path) -> FileLock | None:
    # Not in the hidden folder, which could not be removed while a file in it is open. The file is never removed: if
    # another process could make it anew, two processes could hold locks on two files of the same name.
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock.take(path)
    if lock is not None:
        with suppress(OSError):
            # In a folder that several people share, each of them may prepare data sets. The descriptor is used and not
            # the path, which may lead to another file by now.
            os.fchmod(lock.fileno(), path.parent.stat().st_mode & 0o666)
    return lock


def _complete(root: Path, folder: Path) -> None:
    """Complete a replacement that a killed run left undone: move the new data set, else the old one, to its folder.

    Raises:
        StorageError: the file system refuses.
    """
    if look_at(folder) is not None:
        return
    for replaced in _without_name(root, _REPLACED):
        packed = replaced.with_name(replaced.name.replace(_REPLACED, _PACKED))
        for candidate in (packed, replaced):
            if _is_whole(candidate):
                move(candidate, folder)
                return


def _leave(stage: Stage) -> None:
    """After a failure, keep only what the next run can use."""
    with suppress(OSError):
        # If it is complete, it may be the only copy: the disk may have failed while it was moved.
        if not (stage.packed / MANIFEST).exists():
            remove_tree(stage.packed)
        stage.root.rmdir()


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, read_manifest(folder))
    except DataError:
        return False
    return True


def _discard(root: Path) -> None:
    """Remove data sets that are not in their final folder.

    Their manifests are removed first, so that a kill leaves none that seems complete.
    """
    with suppress(StorageError):
        for folder in _without_name(root, _PACKED, _REPLACED):
            remove(folder / MANIFEST)
            remove_tree(folder)


def _without_name(root: Path, *kinds: str) -> list[Path]:
    """Data sets in the hidden folder, of the given kinds: packed but not moved yet, or replaced.

    Raises:
        StorageError: the file system refuses.
    """
    if look_at(root) is None:
        return []
    return [root / name for name in names_in(root) if name.startswith(kinds)]
