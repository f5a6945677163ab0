"""One line at the bottom of a terminal that says how far something is, and is never wider than the terminal.

It is drawn by rich in a thread of its own, four times a second, whatever the work does meanwhile: the work only changes
numbers. Lines that are printed meanwhile appear above it. Where there is no terminal that can rewrite a line (a pipe, a
job's log, ``TERM=dumb``) nothing is drawn, and no control character is written.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

from kdhpc.printing import has_unicode, printable_stream, terminal_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_A_SECOND = 4
_USUAL_WIDTH = 80
_LEAST_BAR, _MOST_BAR = 10, 30


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the line."""

    text: str
    """A few words."""
    rank: int = 0
    """Where the line is too long, the parts of the highest rank are left out first. Rank 0 stays."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the line shows."""

    parts: tuple[Part, ...]
    """Its words, with commas between the parts."""
    fraction: float | None = None
    """How much is done, 0 to 1, drawn as a bar where there is room; None: no bar."""


def fitted(parts: Sequence[Part], width: int) -> str:
    """The parts with commas between them, without those of the highest ranks if they are too wide; cut if that is not
    enough.

    Args:
        parts: In the order in which they are shown.
        width: In characters.
    """
    kept = list(parts)
    while len(line := ", ".join(part.text for part in kept)) > width:
        highest = max((part.rank for part in kept), default=0)
        if highest == 0:
            return line[: max(0, width)]
        kept = [part for part in kept if part.rank < highest]
    return line


def rewrites(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a line can be rewritten."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def line_width(stream: TextIO) -> int:
    """Characters that fit on a line of a terminal without reaching its last column; 79 if it does not say."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return max(1, int(columns) - 1)
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        found = 0
    return max(1, (found or _USUAL_WIDTH) - 1)


class LiveLine:
    """The line, on standard error. While it is there, what is printed to standard error appears above it.

    Args:
        shown: What to show. It is called in another thread, and must be quick.
    """

    def __init__(self, shown: Callable[[], Shown]) -> None:
        self._shown = shown
        self._live: Live | None = None
        self._terminal: _Terminal | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether the line is there."""
        return self._live is not None

    @property
    def width(self) -> int | None:
        """Characters that fit on a line of the terminal; None: it has not been drawn on one.

        Standard error itself, which rich has replaced while the line is there, need not say that it is a terminal.
        """
        return None if self._terminal is None else line_width(self._terminal.stream)

    def start(self) -> None:
        """Draw the line from now on, if standard error is a terminal that can rewrite it."""
        if self._live is not None or sys.stderr is None or not rewrites(sys.stderr):
            return
        from rich.live import Live

        self._terminal = _Terminal(terminal_of(sys.stderr))
        # Its own thread draws it; what goes to standard output is redirected only if that is seen on the terminal, too.
        self._live = Live(
            console=_console(self._terminal),
            get_renderable=self._renderable,
            refresh_per_second=_A_SECOND,
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        try:
            self._live.start(refresh=True)
            sys.stderr = printable_stream(sys.stderr)
        except BaseException:  # Ctrl-C at this moment: nobody else would take the line away.
            self.stop()
            raise

    def stop(self) -> None:
        """Take the line away."""
        live, self._live = self._live, None
        if live is not None:
            # rich puts back the streams that it found.
            with contextlib.suppress(OSError):
                live.stop()

    def above(self, line: str) -> None:
        """Print a line to standard error, above this one.

        Raises:
            OSError: nobody reads it any more.
        """
        if self._terminal is not None and self._terminal.is_gone:
            raise BrokenPipeError("the terminal is gone")
        print(line, file=sys.stderr, flush=True)

    def _renderable(self) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self._terminal is not None
        shown, width = self._shown(), line_width(self._terminal.stream)
        line = fitted(shown.parts, width)
        text = Text(line, no_wrap=True, overflow="crop", end="")
        room = min(_MOST_BAR, width - len(line) - 2)
        if shown.fraction is None or room < _LEAST_BAR:
            return text
        row = Table.grid(padding=(0, 1))
        row.add_row(text, ProgressBar(total=1.0, completed=shown.fraction, width=room))
        return row


def _console(terminal: "_Terminal") -> Any:
    from rich.console import Console

    class Quiet(Console):
        def show_cursor(self, show: bool = True) -> bool:
            # A process that is killed could not show it again.
            return False

    return Quiet(
        file=cast(TextIO, terminal), force_terminal=True, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


class _Terminal:
    """A terminal that may go away, as when an ssh connection ends: writing to it never raises."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_gone = False

    @property
    def encoding(self) -> str:
        """What the terminal can show: a bar of plain characters serves one without Unicode."""
        own: str | None = getattr(self.stream, "encoding", None)
        return (own or "utf-8") if has_unicode(own, os.environ) else "ascii"

    def write(self, text: str) -> int:
        with self._going_on():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self.stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.stream.fileno()

    @contextlib.contextmanager
    def _going_on(self) -> Any:
        try:
            yield
        except (OSError, ValueError):
            self.is_gone = True
