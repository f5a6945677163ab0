"""Writing a project's files. What exists is left as it is."""

from dataclasses import dataclass
from pathlib import Path

from kdhpc.files.storage_errors import storage_error
from kdhpc.files.writing import create_alone, make_folder
from kdhpc.project.contents import files
from kdhpc.project.site_choice import SiteChoice


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of a project's files, by their paths below its folder."""

    new: tuple[Path, ...]
    """Those that were written."""
    kept: tuple[Path, ...]
    """Those that existed, and were left as they are."""


def write_project(folder: Path, choice: SiteChoice) -> Written:
    """Write a project's files into a folder, which is made if it is missing.

    Raises:
        StorageError: the file system refuses.
    """
    new: list[Path] = []
    kept: list[Path] = []
    for path, content in files(folder.absolute(), choice):
        place = folder / path
        try:
            make_folder(place.parent)
        except OSError as exc:
            raise storage_error(exc, place.parent, "made") from exc
        (new if create_alone(place, content) else kept).append(path)
    return Written(new=tuple(new), kept=tuple(kept))
