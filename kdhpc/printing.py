"""What kdhpc prints holds no control characters: text from files, databases and other programs is shown, not obeyed.

A name in a result, or a reason in the database, may hold what moves a terminal's cursor, renames its window or turns
the direction of writing. So standard output and error go through one filter, which writes such characters as Python
would (``\\x1b``), and lets through line ends and tabs alone. What kdhpc itself wants of a terminal goes past it.
"""

import io
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

_ERASE_LINE = "\r\x1b[K"
_UNFIT_KINDS = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's control characters, surrogates, and separators of lines and paragraphs."""
_TURNING = frozenset((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
"""Characters that change the direction of what follows, and so what a name seems to be."""


def printable(text: str) -> str:
    """The text with all that cannot be printed written out; line ends and tabs stay."""
    return text if text.isprintable() else "".join(c if c in "\n\t" else _written_out(c) for c in text)


def one_line(text: str) -> str:
    """The text with line ends and tabs written out, too: as a part of a message, or a cell, which it cannot break.

    A name in another encoding than the system's is, in Python, a text with surrogates: they are written as its bytes.
    """
    return text if text.isprintable() else "".join(map(_written_out, text))


def printable_stream(stream: TextIO) -> TextIO:
    """A stream that writes printable text only, in characters that the other one can encode."""
    return stream if isinstance(stream, _Printable) else cast(TextIO, _Printable(stream))


@contextmanager
def printable_output() -> Iterator[None]:
    """Let all that is written to standard output and error be printable."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and printable_stream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def erase_line(stream: TextIO) -> None:
    """Empty a terminal's line, and go to its beginning."""
    terminal_of(stream).write(_ERASE_LINE)


def terminal_of(stream: TextIO) -> TextIO:
    """The stream itself, past the filter: for what is to be obeyed. Whoever writes to it makes texts printable."""
    return stream.stream if isinstance(stream, _Printable) else stream


def has_unicode(encoding: str | None, environment: Mapping[str, str]) -> bool:
    """Whether a terminal can be given more than ASCII.

    In the C locale Python writes UTF-8 all the same, and has set LC_CTYPE itself: so that alone tells nothing.
    """
    if not (encoding or "").lower().replace("-", "").startswith("utf"):
        return False
    names = [environment.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] in ("C.UTF-8", "C.utf8", "UTF-8") and not names[0]:
        names[1] = ""
    chosen = next((name for name in names if name), "C")
    return "utf" in chosen.lower()


class _Printable:
    """The filter; all but writing is the other stream's."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Unheard(io.TextIOBase):
    """Stands in for a standard output that is closed, and remembers whether there was something to write."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.was_written = False

    def write(self, text: str) -> int:
        """Nothing is written."""
        self.was_written = self.was_written or bool(text)
        return len(text)

    def writable(self) -> bool:
        """As a file."""
        return True


def _written_out(character: str) -> str:
    if unicodedata.category(character) not in _UNFIT_KINDS and ord(character) not in _TURNING:
        return character
    code = ord(character)
    # A byte that was no text.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]
