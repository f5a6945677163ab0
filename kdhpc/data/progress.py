"""What a long job tells on stderr while it runs."""

import time
from typing import TextIO

from kdhpc.printing import erase_line, one_line


class Progress:
    """A counter that shows how far a job is, how fast it goes and how long it will still take.

    On a terminal it rewrites one line; in a log file it adds a line now and then.

    Args:
        stream: where to write, usually ``sys.stderr``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every_s = 0.2 if self._terminal else 10.0
        self._what = ""
        self._done = self._total = 0
        self._started = self._shown = 0.0

    def say(self, line: str) -> None:
        """Writes one line; control characters, which names of files may hold, are escaped."""
        self._stream.write(f"{one_line(line)}\n")
        self._stream.flush()

    def start(self, what: str, total: int) -> None:
        """Begins to count ``total`` things."""
        self._what, self._total, self._done = what, total, 0
        self._started = self._shown = time.monotonic()

    def advance(self, num: int) -> None:
        """Counts ``num`` more, and shows it when it is time or all are done."""
        self._done += num
        now = time.monotonic()
        finished = self._done >= self._total
        if finished or now - self._shown >= self._every_s:
            self._shown = now
            self._show(now - self._started, finished)

    def _show(self, passed_s: float, finished: bool) -> None:
        rate = self._done / passed_s if passed_s > 0 else 0.0
        left = "" if finished or rate == 0 else f", {(self._total - self._done) / rate:.0f} s to go"
        line = f"{self._what}: {self._done:,} of {self._total:,} ({rate:,.0f} a second{left})"
        if self._terminal:
            erase_line(self._stream)
            self._stream.write(line + ("\n" if finished else ""))
            self._stream.flush()
        else:
            self.say(line)
