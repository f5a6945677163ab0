"""Folders that stand for classes: the images in each, and what is said of everything else that lies there."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.data.names import has_image_name, is_left_out, shown
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import first_few
from kdhpc.data.reading import entries_in, folders_in
from kdhpc.data.tree import Walk
from kdhpc.errors import DataError
from kdhpc.words import counted

_LEFT_BEHIND = "left out, folders hidden, or left behind by others"


@dataclass
class Remarks:
    """What is worth a line about a source, gathered over all of its classes, so that each kind is one line."""

    _paths: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, paths: Iterable[object]) -> None:
        """Add paths, or names, to a kind of remark."""
        if found := [str(path) for path in paths]:
            self._paths[kind] += found

    def tell(self, progress: Progress) -> None:
        """Say a line for each kind."""
        for kind, paths in self._paths.items():
            progress.say(f"{kind}: {first_few(sorted(set(paths)))}")


def class_names(folder: Path, remarks: Remarks) -> tuple[str, ...]:
    """The names of the class folders in a folder, sorted.

    Raises:
        DataError: there are none.
        StorageError: the file system refuses to list the folder.
    """
    found = folders_in(folder)
    names = tuple(name for name in found if not is_left_out(name))
    if not names:
        raise DataError(f"{folder} has no class folders: expected is {folder}/<class>/*")
    remarks.note(_LEFT_BEHIND, [folder / name for name in found if is_left_out(name)])
    images = [entry.name for entry, _ in entries_in(folder) if has_image_name(Path(entry.name))]
    remarks.note("left out, files images of no class", [folder / name for name in images if name not in names])
    remarks.note("classes whose names differ by case alone, each is a class of its own", _same_but_case(names))
    return names


def images_of(source: Path, folder: Path, classes: Sequence[str], remarks: Remarks) -> list[list[str]]:
    """For each class the paths of its images below the source, at any depth, in the order of their names.

    Raises:
        DataError: classes without an image.
        StorageError: the file system refuses to list a folder.
    """
    found = [_images(source, folder / name, remarks) for name in classes]
    empty = [name for name, images in zip(classes, found, strict=True) if not images]
    if len(empty) == 1:
        raise DataError(
            f"class {shown(empty[0])!r} has no image in {folder / empty[0]}: remove it everywhere, or add images"
        )
    if empty:
        raise DataError(
            f"{counted(len(empty), 'class', 'classes')} without an image in {folder}: {first_few(empty)}; remove them "
            "everywhere, or add images"
        )
    return found


def _images(source: Path, folder: Path, remarks: Remarks) -> list[str]:
    walk, found = Walk(), dict[str, Path]()
    others, again = list[Path](), list[Path]()
    for file in walk.files(folder):
        if not has_image_name(file.path):
            others.append(file.path)
        elif file.real in found:
            again.append(file.path)
        else:
            found[file.real] = file.path
    remarks.note("left out, files not images by their names", others)
    remarks.note(_LEFT_BEHIND, walk.left_out)
    remarks.note("left out, links to what the class has already", [*walk.repeated, *again])
    names = sorted(path.relative_to(source).as_posix() for path in found.values())
    below = {path.parent for path in found.values() if path.parent != folder}
    remarks.note("folders in a class folder, whose images count to the class", below)
    remarks.note("files whose names differ by case alone, all are read", _same_but_case(names))
    return names


def _same_but_case(names: Iterable[str]) -> list[str]:
    groups = defaultdict[str, list[str]](list)
    for name in names:
        groups[name.casefold()].append(name)
    return [" and ".join(group) for group in groups.values() if len(group) > 1]
