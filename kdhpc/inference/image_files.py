"""Which image files a user means by the files and folders that are given. Free of torch."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.data.names import has_image_name, shown
from kdhpc.data.reading import is_folder
from kdhpc.data.tree import Walk
from kdhpc.errors import StorageError

_NO_IMAGES = "no images by their names"
_HIDDEN = "hidden"
_LEFT_BEHIND = "in folders hidden, or left behind by other programs"
_AGAIN = "named before"
_EMPTY = "folders without an image"
_FEW = 3


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Files and folders that were not looked at, for one reason."""

    reason: str
    """In a few words."""
    paths: tuple[Path, ...]
    """In the order in which they were found."""

    @property
    def line(self) -> str:
        """A line for people: how many, why, and which; of other files than images the endings of their names."""
        if self.reason == _NO_IMAGES:
            endings = Counter(shown(path.suffix.lower()) or "without an ending" for path in self.paths)
            which = ", ".join(f"{ending} {num:,}" for ending, num in endings.most_common(_FEW))
            more = "" if len(endings) <= _FEW else ", ..."
        else:
            which = ", ".join(shown(str(path)) for path in self.paths[:_FEW])
            more = "" if len(self.paths) <= _FEW else ", ..."
        return f"skipped {len(self.paths):,}, {self.reason}: {which}{more}"


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """What was found."""

    files: tuple[Path, ...]
    """Files to read: those that were named, whatever they are called, and those below folders that are called as images
    are. Each file is there once."""
    skipped: tuple[Skipped, ...]
    """What was not looked at."""
    refused: tuple[StorageError, ...]
    """Why folders could not be listed. There may be images in them."""


def find_images(given: Sequence[Path]) -> ImageFiles:
    """The image files among the given ones and below the given folders, at any depth.

    They come in the order in which they are given, those of a folder ordered by their paths. Links are followed. Files
    whose names say that they are no images, hidden ones, and folders that `is_left_out` are skipped.
    """
    search = _Search()
    for path in given:
        search.add(path)
    if search.files and search.empty:
        search.skipped[_EMPTY] = search.empty
    skipped = (Skipped(reason=reason, paths=tuple(paths)) for reason, paths in search.skipped.items())
    return ImageFiles(files=tuple(search.files), skipped=tuple(skipped), refused=tuple(search.refused))


@dataclass
class _Search:
    files: list[Path] = field(default_factory=list)
    skipped: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    refused: list[StorageError] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def add(self, path: Path) -> None:
        try:
            self._add_below(path) if is_folder(path) else self._add_files([path])
        except StorageError:  # Nobody may look at it: reading it says the same.
            self._add_files([path])

    def _add_below(self, folder: Path) -> None:
        walk = Walk(refused=self.refused)
        found = sorted(file.path for file in walk.files(folder))
        if not any(map(has_image_name, found)):
            self.empty.append(folder)
        self._skip(_NO_IMAGES, (path for path in found if not has_image_name(path)))
        self._skip(_HIDDEN, walk.hidden)
        self._skip(_LEFT_BEHIND, walk.left_out)
        self._skip(_AGAIN, walk.repeated)
        self._add_files(filter(has_image_name, found))

    def _add_files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            real = os.path.realpath(path)
            if real in self._known:
                self._skip(_AGAIN, [path])
            else:
                self._known.add(real)
                self.files.append(path)

    def _skip(self, reason: str, paths: Iterable[Path]) -> None:
        if found := list(paths):
            self.skipped[reason] += found
