"""What kdhpc prints holds no control characters: text from files, databases and other programs is shown, not obeyed.

A name in a result, or a reason in the database, may hold what moves a terminal's cursor, renames its window or turns
the direction of writing. So standard output and error go through one filter, which writes such characters as Python
would (``\\x1b``), and lets through line ends and tabs alone. What kdhpc itself wants of a terminal goes past it.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# C0 and C1 controls, ends of lines and paragraphs that terminals do not all know, and marks of direction.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROL_OR_BREAK = re.compile(rf"[\t\n]|{_CONTROL.pattern}")
_ERASE_LINE = "\r\x1b[K"


def printable(text: str) -> str:
    """The text with its control characters written out; line ends and tabs stay."""
    return _CONTROL.sub(_written_out, text)


def one_line(text: str) -> str:
    """The text with line ends and tabs written out, too: as a cell of a table, which it cannot break."""
    return _CONTROL_OR_BREAK.sub(_written_out, text)


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
    (stream.stream if isinstance(stream, _Printable) else stream).write(_ERASE_LINE)


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


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
