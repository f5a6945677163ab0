"""Names of files and folders that come from elsewhere: which of them mean nothing, and how they are shown."""

import unicodedata
from collections.abc import Iterable

_LITTER = frozenset(
    name.casefold()
    for name in (
        *("@eaDir", "@Recycle", "#recycle", "#snapshot", "@tmp"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "__pycache__"),
    )
)
_LONGEST_SHOWN = 300


def is_left_out(name: str) -> bool:
    """Whether a folder of that name is one that desktops, notebooks and file servers leave behind, or hidden."""
    return name.startswith(".") or name.casefold() in _LITTER


def escaped(text: str) -> str:
    """A text of others as it may be printed: without control characters, and without bytes that are no text.

    A name in another encoding than the system's is, in Python, a text with surrogates.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def shown(text: str) -> str:
    """A text of others as a part of a message: escaped, and not too long."""
    whole = escaped(text[: _LONGEST_SHOWN + 1])
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}..."


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    # A byte that was no text.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]


def is_text(name: str) -> bool:
    """Whether a name can be printed as it is."""
    return escaped(name) == name


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that look the same, because they differ only in their Unicode form."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            pairs.append((other, name))
    return pairs
