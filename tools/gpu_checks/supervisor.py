"""The checks of a part run in a process of their own, which may crash or hang: the rest is run all the same.

The process says on its standard output, one JSON object a line, which checks there are (``plan``), which one begins
(``begin``), and what came of it (``row``). It ends where its GPU cannot be used any more; another one goes on with what
is left.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tools.gpu_checks.rows import Cell, Row

_PATIENCE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A check to come."""

    name: str
    """Its name."""
    limit_s: float
    """Longest time that it may take."""


class Part:
    """Runs one part to its end, or to the end of its time.

    Args:
        name: Of the part.
        command: What is run, given the names of the checks that are done.
        deadline: On ``time.monotonic``: the part ends by then.
        found: Is given each row.
        described: Is given what the process says of its machine.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Sequence[str]], list[str]],
        *,
        deadline: float,
        found: Callable[[Row], None],
        described: Callable[[dict[str, Cell]], None] = lambda machine: None,
    ) -> None:
        self._name = name
        self._command = command
        self._deadline = deadline
        self._found = found
        self._described = described
        self._plan: dict[str, Planned] | None = None
        self._done: list[str] = []
        self._current: Planned | None = None
        self._began = 0.0

    def run(self) -> None:
        """Run all checks, in as many processes as it takes."""
        while True:
            num_done = len(self._done)
            if time.monotonic() >= self._deadline:
                self._skip_the_rest()
                return
            ended = self._run_process()
            if self._plan is not None and len(self._done) == len(self._plan):
                return
            if len(self._done) == num_done:  # It did not come as far as a check: another one would not either.
                if time.monotonic() < self._deadline:
                    self._add("start", "failed", f"the process of the checks {ended}: see what it wrote")
                self._skip_the_rest()
                return

    def _run_process(self) -> str:
        """One process; returns how it ended."""
        self._current = None
        with _process(self._command(self._done)) as (process, lines):
            while True:
                until = self._deadline
                if self._current is not None:
                    until = min(until, self._began + self._current.limit_s)
                try:
                    line = lines.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    return self._stopped()
                if line is None:
                    ended = _words(process.wait())
                    if self._current is not None:
                        self._add(self._current.name, "failed", f"its process {ended}")
                        self._current = None
                    return ended
                self._note(json.loads(line))

    def _note(self, message: dict[str, object]) -> None:
        """Understand a line of the process."""
        if "machine" in message:
            self._described(message["machine"])  # type: ignore[arg-type]
        if "plan" in message and self._plan is None:
            planned = [Planned(**each) for each in message["plan"]]  # type: ignore[attr-defined]
            self._plan = {each.name: each for each in planned}
        if "begin" in message:
            assert self._plan is not None
            self._current, self._began = self._plan[str(message["begin"])], time.monotonic()
        if "row" in message:
            row = Row(**message["row"])  # type: ignore[arg-type]
            self._done.append(row.check)
            self._current = None
            self._found(row)

    def _stopped(self) -> str:
        """The process takes too long."""
        if self._current is not None:
            if time.monotonic() >= self._deadline:
                self._add(self._current.name, "not run", "its time was over before it was done")
            else:
                self._add(self._current.name, "failed", f"no end within {self._current.limit_s:.0f} s")
            self._current = None
        return "took too long"

    def _skip_the_rest(self) -> None:
        if self._plan is None:
            if not self._done:
                self._add("all checks", "not run", "no time was left")
            return
        for name in self._plan:
            if name not in self._done:
                self._add(name, "not run", "no time was left")

    def _add(self, check: str, outcome: str, detail: str) -> None:
        seconds = 0.0 if self._current is None else time.monotonic() - self._began
        self._done.append(check)
        self._found(Row(part=self._name, check=check, outcome=outcome, detail=detail, seconds=seconds))  # type: ignore[arg-type]


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[tuple["subprocess.Popen[str]", "queue.Queue[str | None]"]]:
    """A process and its lines, ended by None; at the end all that it has started is killed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(timeout=_PATIENCE_S)  # Until all that held the other end of the pipe has ended.
        if not reader.is_alive() and process.stdout is not None:
            process.stdout.close()


def _words(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
