"""Names of files and folders of a user's images: which to leave out, and how to show names in messages."""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

from kdhpc.printing import one_line

_LITTER = frozenset(
    name.casefold()
    for name in (
        *("#recycle", "#snapshot"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "__pycache__"),
    )
)
_IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
_LONGEST_SHOWN = 300


def has_image_name(path: PurePath) -> bool:
    """Whether a file has the suffix of a format that is read. Its content decides which of them it is."""
    return path.suffix.lower() in _IMAGE_SUFFIXES


def is_left_out(name: str) -> bool:
    """Whether to leave out a folder of that name, as it holds no images of the data set.

    Such folders are hidden, or made by desktops, notebooks and file servers: ``.ipynb_checkpoints``, ``@eaDir``,
    ``lost+found``, ...
    """
    return name.startswith((".", "@")) or name.casefold() in _LITTER


def shown(text: str) -> str:
    """Text from a file, for use in a message: control characters are escaped, and a long text is cut."""
    whole = one_line(text[: _LONGEST_SHOWN + 1])
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}..."


def is_text(name: str) -> bool:
    """Whether a name has only characters that can be printed, of any script."""
    return one_line(name) == name


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that look the same, but are spelt in two Unicode normal forms (é as 1 or 2 code points)."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            pairs.append((other, name))
    return pairs
