"""Names of files and folders that come from elsewhere: which of them mean nothing, and how they are shown."""

import unicodedata
from collections.abc import Iterable

from kdhpc.printing import one_line

_LITTER = frozenset(
    name.casefold()
    for name in (
        *("#recycle", "#snapshot"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "__pycache__"),
    )
)
_LONGEST_SHOWN = 300


def is_left_out(name: str) -> bool:
    """Whether a folder of that name is one that desktops, notebooks and file servers leave behind, or hidden.

    File servers call theirs ``@eaDir``, ``@Recycle``, ``@Recently-Snapshot``, and more of that kind.
    """
    return name.startswith((".", "@")) or name.casefold() in _LITTER


def shown(text: str) -> str:
    """A text of others as a part of a message: escaped, and not too long."""
    whole = one_line(text[: _LONGEST_SHOWN + 1])
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}..."


def is_text(name: str) -> bool:
    """Whether a name can be printed as it is, in any script."""
    return one_line(name) == name


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that look the same, because they differ only in their Unicode form."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            pairs.append((other, name))
    return pairs
