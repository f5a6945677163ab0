"""The hidden folder in which a data set is made, and the step that gives it its name.

``.<name>.partial`` lies beside the final folder. A run may be killed at any time: what it leaves there does not open,
and the next run goes on with it. Nothing in it keeps a name that the next run needs: some file systems keep the hidden
files of what a process still has open, and their folders with them, for as long as that lasts.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.data.packed import MANIFEST, check_files, hidden_folder, read_manifest
from kdhpc.data.progress import Progress
from kdhpc.data.reading import look_at, names_in
from kdhpc.errors import DataError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.removing import remove, remove_tree
from kdhpc.files.writing import move

_PACKED, _REPLACED = "packed", "replaced"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The hidden folder of a data set in the making."""

    root: Path
    """``.<name>.partial``."""
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """Of this run: two that do not know of each other never write the same array."""

    @property
    def unpacked(self) -> Path:
        """What came out of archives."""
        return self.root / "unpacked"

    @property
    def parts(self) -> Path:
        """Decoded images, in parts."""
        return self.root / "parts"

    @property
    def packed(self) -> Path:
        """The packed form, until it takes its name."""
        return self.root / f"{_PACKED}-{self.run}"

    @property
    def replaced(self) -> Path:
        """What had the name before."""
        return self.root / f"{_REPLACED}-{self.run}"


@contextmanager
def staged(folder: Path, progress: Progress) -> Iterator[Stage]:
    """The hidden folder of ``folder``, for one process at a time; it goes when the block ends well.

    Where an earlier run was killed between taking a name away and giving it anew, that is completed first.

    Args:
        folder: the data set's.
        progress: told where the file system cannot keep a second process away.

    Raises:
        DataError: another process has it.
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
    """Remove what earlier runs have left of a data set that is there, unless another process is at it."""
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
    """Gives the finished data set its name; what had the name before goes with the hidden folder.

    Raises:
        StorageError: the file system refuses; what had the name before has it again, or the next run gives it back.
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
    # Not in the hidden folder, which could not be removed while a file in it is open. The file stays for good: a lock
    # on a file that another process may remove and make again is none.
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock.take(path)
    if lock is not None:
        with suppress(OSError):
            # Whoever may write into a folder that several people share may prepare there. Not by its name, which
            # somebody else may have given to another file.
            os.fchmod(lock.fileno(), path.parent.stat().st_mode & 0o666)
    return lock


def _complete(root: Path, folder: Path) -> None:
    """Give a data set its name that has lost it, because a run was killed just then: the new one's, else the old one's.

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
    """Keep what the next run can use."""
    with suppress(OSError):
        # Whole, it may be the only one that there is: the disk may have failed while it took its name.
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
    """Remove data sets without a name. Their manifests go first: what a kill leaves of them is not whole."""
    with suppress(StorageError):
        for folder in _without_name(root, _PACKED, _REPLACED):
            remove(folder / MANIFEST)
            remove_tree(folder)


def _without_name(root: Path, *kinds: str) -> list[Path]:
    """Data sets in the hidden folder that are, or were, to take the name or have lost it.

    Raises:
        StorageError: the file system refuses to tell.
    """
    if look_at(root) is None:
        return []
    return [root / name for name in names_in(root) if name.startswith(kinds)]
