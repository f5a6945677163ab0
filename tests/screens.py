"""A terminal for tests: what it shows in the end, and how wide its lines ever were."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

_PIECES = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[?0-9;]*[A-Za-z]|(.)", re.DOTALL)


class Screen:
    """Obeys what progress asks of a terminal: return, line end, cursor up, empty a line. Colours are ignored."""

    def __init__(self, text: str) -> None:
        self.lines = [""]
        self.widest = 0
        self._row = self._column = 0
        for number, command, character in _PIECES.findall(text):
            if command == "A":
                self._row = max(0, self._row - int(number or 1))
            elif command == "K":
                self.lines[self._row] = "" if number == "2" else self.lines[self._row][: self._column]
            elif character:
                self._put(character)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row, self._column = self._row + 1, 0
            self.lines += [""] * (self._row + 1 - len(self.lines))
        else:
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1
            self.widest = max(self.widest, self._column)

    @property
    def shown(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self.lines if line.strip()]


def in_terminal(
    argv: Sequence[str], *, columns: int, environment: Mapping[str, str], interrupt_at: str | None = None
) -> tuple[int, str]:
    """Run a command in a terminal of so many columns.

    Args:
        argv: The command.
        columns: Width of the terminal.
        environment: Of the command.
        interrupt_at: Press Ctrl-C once the terminal has got this text.

    Returns:
        The exit code, and all that the terminal got.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    got, deadline = b"", time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # Linux: the other end is closed.
                    break
                got += piece
            if interrupt_at is not None and interrupt_at.encode() in got:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
        return process.wait(timeout=30), got.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
