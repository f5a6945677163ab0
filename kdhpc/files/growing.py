"""Text files that others still write to: logs, of whatever size and content.

A file is opened anew for each look: over NFS, what another machine has written shows to whoever opens a file. It is
known again by the bytes that were read last and not by its inode, whose number some shared file systems change.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

from kdhpc.files.reading import open_regular

_BLOCK = 1 << 16
_MOST_LOOKED_BACK = 8 << 20
"""Bytes, for the beginning of a file's last lines."""
_LONGEST_LINE = 4000
"""Characters that are shown."""
_KNOWN_BYTES = 256


class GrowingFile:
    """Reads a file's lines from a place on, and later those that were added.

    A file that was replaced, emptied or cut is read from its beginning.

    Args:
        path: The file; it may be missing now and be there later.
        start: Where to begin, in bytes.
    """

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._path = path
        self._place = start
        self._known = b""
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        """The lines that are whole by now, and that were not read before; none of a file that is not there.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            file = io.FileIO(self._path, opener=open_regular)
        except FileNotFoundError:
            return
        with file:
            if not self._is_the_same(file):
                self._place, self._known, self._rest = 0, b"", b""
            file.seek(self._place)
            while block := file.read(_BLOCK):
                self._place += len(block)
                self._known = (self._known + block)[-_KNOWN_BYTES:]
                *lines, self._rest = (self._rest + block).split(b"\n")
                if len(self._rest) > _BLOCK:  # No log's line, and perhaps one without end.
                    lines.append(self._rest)
                    self._rest = b""
                yield from map(_text, lines)

    def rest(self) -> Iterator[str]:
        """The last line, if it has no end and none is to come."""
        if self._rest:
            yield _text(self._rest)
        self._rest = b""

    def _is_the_same(self, file: io.FileIO) -> bool:
        if os.fstat(file.fileno()).st_size < self._place:
            return False
        return os.pread(file.fileno(), len(self._known), self._place - len(self._known)) == self._known


def start_of_last_lines(path: Path, num_lines: int) -> int:
    """Where a file's last lines begin, in bytes; looks back so far at most that a file of any size is no matter.

    Raises:
        OSError: the file cannot be read.
    """
    with io.FileIO(path, opener=open_regular) as file:
        place = end = file.seek(0, os.SEEK_END)
        if num_lines == 0:
            return end
        # The end of the last line begins no other one.
        missing, line_start = num_lines + (os.pread(file.fileno(), 1, max(end - 1, 0)) == b"\n"), end
        while place > 0 and end - place < _MOST_LOOKED_BACK:
            size = min(_BLOCK, place)
            place -= size
            block = os.pread(file.fileno(), size, place)
            while (found := block.rfind(b"\n")) >= 0:
                missing -= 1
                if missing == 0:
                    return place + found + 1
                line_start = place + found + 1
                block = block[:found]
        return place if place == 0 or line_start == end else line_start


def _text(line: bytes) -> str:
    """A line as text; a byte that is none stays, as Python keeps it: whoever prints it writes it out."""
    text = line.decode("utf-8", "surrogateescape").removesuffix("\r")
    more = len(text) - _LONGEST_LINE
    return text if more <= 0 else f"{text[:_LONGEST_LINE]} ... ({more} more characters)"
