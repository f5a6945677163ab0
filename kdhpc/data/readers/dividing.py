"""The test half of a source that has none: a share of each class, which follows from the names of its images.

No random generator is used. In a class, images are ordered by the SHA-256 of ``kdhpc/test/<path>``, and the first ones
are the test images. So the halves are the same on every machine, and an image that is added later moves few others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdhpc.data.readers.class_folders import Remarks
from kdhpc.data.readers.source import first_few
from kdhpc.data.reading import look_at, open_file
from kdhpc.errors import DataError, UsageError
from kdhpc.words import counted

_AT_ONCE = 1 << 20


def check_fraction(fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"--split {fraction:g} is not allowed: give the test images' share, as 0.2, above 0, below 1")


def divided(
    root: Path, classes: Sequence[str], images: Sequence[Sequence[str]], fraction: float, remarks: Remarks
) -> tuple[list[list[str]], list[list[str]]]:
    """Divide the images of each class.

    Of each class at least one image trains and one tests. Files of one content are copies of one image, and stay in one
    half: networks would learn from the test images otherwise.

    Args:
        root: Folder that the names are relative to.
        classes: Names of the classes.
        images: For each class its images.
        fraction: Share of a class that tests, between 0 and 1.
        remarks: Receives the copies.

    Returns:
        For each class its training images, and for each class its test images, in the order of their names.

    Raises:
        DataError: classes with a single image.
        StorageError: the file system refuses to read a file.
    """
    grouped = [_copies(root, names) for names in images]
    alone = [name for name, groups in zip(classes, grouped, strict=True) if len(groups) < 2]
    if alone:
        raise DataError(
            f"{root}: {counted(len(alone), 'class', 'classes')} with a single image, and --split needs one to learn "
            f"from and one to test: {first_few(alone)}; add images, or move these folders away"
        )
    copies = [name for groups in grouped for group in groups for name in group[1:]]
    remarks.note("copies of other images of their class, which stay in one half with them", copies)
    train, test = list[list[str]](), list[list[str]]()
    for names, groups in zip(images, grouped, strict=True):
        chosen = _first(groups, round(fraction * len(names)))
        train.append([name for name in names if name not in chosen])
        test.append([name for name in names if name in chosen])
    return train, test


def _first(groups: Sequence[Sequence[str]], num: int) -> set[str]:
    """The images of the first groups, by their digests, that have ``num`` images together; never all groups."""
    chosen = set[str]()
    for group in sorted(groups, key=lambda group: _digest(group[0]))[:-1]:
        if chosen and len(chosen) + len(group) > num:
            break
        chosen.update(group)
    return chosen


def _digest(name: str) -> str:
    return hashlib.sha256(f"kdhpc/test/{name}".encode(errors="surrogateescape")).hexdigest()


def _copies(root: Path, names: Iterable[str]) -> list[list[str]]:
    """The images as groups of equal content, each in the order of the names. Only files of one length are compared."""
    by_length = defaultdict[int, list[str]](list)
    for name in names:
        found = look_at(root / name)
        by_length[-1 if found is None else found.st_size].append(name)
    groups = list[list[str]]()
    for length, alike in by_length.items():
        by_content = defaultdict[str, list[str]](list)
        for name in alike:
            # What is empty, or cannot be opened, is said when images are decoded.
            by_content[_content(root / name) if length > 0 and len(alike) > 1 else name].append(name)
        groups += by_content.values()
    return groups


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            while block := file.read(_AT_ONCE):
                digest.update(block)
    except OSError:
        return str(path)
    return digest.hexdigest()
