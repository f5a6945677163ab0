"""Progress of a long job, on stderr."""

import time
from types import TracebackType
from typing import TextIO

from kdhpc.live_line import line_width, rewrites
from kdhpc.printing import erase_line, one_line


class Progress:
    """A counter that shows how much of a job is done, how fast it goes, and how long the rest will take.

    On a terminal it rewrites one line, at most five times a second, that is never wider than the terminal. In a log
    file it adds a line every ten seconds.

    Args:
        stream: Where to write, usually ``sys.stderr``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = rewrites(stream)
        self._is_pending = False
        self._every_s = 0.2 if self._terminal else 10.0
        self._what = ""
        self._done = self._total = 0
        self._per_shown, self._unit = 1, ""
        self._started = self._shown = 0.0

    def say(self, line: str) -> None:
        """Write one line. Control characters are escaped, as names of files may contain some."""
        self._clear()
        self._stream.write(f"{one_line(line)}\n")
        self._stream.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._stream.flush()

    def _clear(self) -> None:
        """Remove a count that is not done from a terminal: what comes next begins its line."""
        if self._is_pending:
            erase_line(self._stream)
            self._is_pending = False

    def start(self, what: str, total: int, *, in_mb: bool = False) -> None:
        """Begin a new count.

        Args:
            what: The text before the numbers.
            total: Where it ends; it begins at 0.
            in_mb: Bytes are counted, and shown as MB.
        """
        self._what, self._total, self._done = what, total, 0
        self._per_shown, self._unit = (1_000_000, " MB") if in_mb else (1, "")
        self._started = self._shown = time.monotonic()
        if self._terminal and total > 0:
            self._show(0.0, finished=False)

    def advance(self, num: int) -> None:
        """Count ``num`` more. The count is shown now and then, and when everything is done."""
        self._done += num
        now = time.monotonic()
        finished = self._done >= self._total
        if finished or now - self._shown >= self._every_s:
            self._shown = now
            self._show(now - self._started, finished)

    def _shown_as(self, number: float) -> str:
        return f"{number / self._per_shown:,.0f}"

    def _show(self, passed_s: float, finished: bool) -> None:
        rate = self._done / passed_s if passed_s > 0 else 0.0
        count = f"{self._what}: {self._shown_as(self._done)} of {self._shown_as(self._total)}{self._unit}"
        left = "" if finished or rate == 0 else f", {(self._total - self._done) / rate:.0f} s to go"
        pace = f" ({self._shown_as(rate)}{self._unit} a second{left})" if self._done else ""
        if not self._terminal:
            self.say(count + pace)
            return
        width = line_width(self._stream)
        line = one_line(count + pace if len(count) + len(pace) <= width else count + left.replace(",", ":"))
        erase_line(self._stream)
        self._stream.write(line[:width] + ("\n" if finished else ""))
        self._stream.flush()
        self._is_pending = not finished
