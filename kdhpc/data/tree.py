"""The files below a folder, at any depth. Links are followed; hidden files and `is_left_out` folders are skipped."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.data.names import is_left_out
from kdhpc.data.reading import entries_in
from kdhpc.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """A file that was found."""

    path: Path
    """Path below the folder where the walk began; it may lead through links."""
    real: str
    """Real path, with links resolved."""


@dataclass
class Walk:
    """A walk through folders that follows links. Each real folder is entered once, as links may form a cycle.

    Args:
        exclude: A folder that is not entered.
        refused: Takes the errors of folders that cannot be listed, and the walk goes on; None: the first one is raised.
    """

    exclude: Path | None = None
    refused: list[StorageError] | None = None
    hidden: list[Path] = field(default_factory=list)
    """Hidden files."""
    left_out: list[Path] = field(default_factory=list)
    """Folders that were not entered because of their names, see `is_left_out`."""
    repeated: list[Path] = field(default_factory=list)
    """Paths to folders that had been entered already by another path."""
    _entered: set[str] = field(default_factory=set)

    def files(self, folder: Path) -> Iterator[TreeFile]:
        """The files below a folder, at any depth, without hidden ones. Links to files come after all other files.

        Raises:
            StorageError: the file system refuses to list a folder.
            OSError: there is no such folder.
        """
        waiting, linked_folders, linked_files = [folder], deque[Path](), list[Path]()
        while waiting or linked_folders:
            entered = waiting.pop() if waiting else linked_folders.popleft()
            real = os.path.realpath(entered)
            if real in self._entered:
                self.repeated.append(entered)
                continue
            self._entered.add(real)
            for entry, is_folder in self._entries(entered):
                path = entered / entry.name
                if is_folder and path == self.exclude:
                    continue
                if is_folder and is_left_out(entry.name):
                    self.left_out.append(path)
                elif is_folder:
                    (linked_folders if entry.is_symlink() else waiting).append(path)
                elif entry.name.startswith("."):
                    self.hidden.append(path)
                elif entry.is_symlink():
                    linked_files.append(path)
                else:
                    yield TreeFile(path=path, real=f"{real}{os.sep}{entry.name}")
        for path in linked_files:
            yield TreeFile(path=path, real=os.path.realpath(path))

    def _entries(self, folder: Path) -> "list[tuple[os.DirEntry[str], bool]]":
        try:
            return entries_in(folder)
        except StorageError as exc:
            if self.refused is None:
                raise
            self.refused.append(exc)
            return []
