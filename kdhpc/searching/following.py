"""Reading the logs of workers, also while they are written: on file systems that tell of no change, by looking again.

Which files are followed may change: a trial goes on in another job, on another node; a study gets more workers.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.files.growing import GrowingFile, start_of_last_lines
from kdhpc.files.storage_errors import storage_error
from kdhpc.searching.worker_logs import TrialLines, WorkerLog

_POLL_S = 1.0
_ASK_S = 5.0
"""Between two questions which logs there are, and whether all is over."""
_QUIET_LOOKS = 3
"""So often nothing came since all was over: nothing will."""
_MOST_OPENED = 16
"""Logs that are opened at each look; others are once their size or time has changed."""
MOST_SEARCHED = 64 << 20
"""Bytes at the end of a log that are searched for the lines of a trial."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line, and where it stands."""

    path: Path
    """The log."""
    text: str
    """The line; it may hold anything."""


class LogReader:
    """Reads logs, each from a place on, and what is added to them.

    Args:
        trial: Only lines about this trial are read; None: all lines.
        tell: Called with what is wrong with a log, each thing once.
    """

    def __init__(self, *, trial: int | None, tell: Callable[[str], None]) -> None:
        self._trial = trial
        self._tell = tell
        self._told: set[str] = set()
        self._files: dict[Path, tuple[GrowingFile, TrialLines | None]] = {}
        self._looks: dict[Path, tuple[int, float]] = {}

    def last_lines(self, logs: Sequence[WorkerLog], num_lines: int) -> tuple[LogLine, ...]:
        """The last lines of logs, read in this order; :meth:`new_lines` goes on after them."""
        found: deque[LogLine] = deque(maxlen=num_lines)
        for log in logs:
            found.extend(self._read(log, num_lines))
        return tuple(found)

    def skip(self, logs: Sequence[WorkerLog]) -> None:
        """Read only what will be added to these logs."""
        for log in logs:
            self._open(log.path, log.size)

    def new_lines(self, logs: Sequence[WorkerLog]) -> Iterator[LogLine]:
        """What was added to these logs, the one last written last; all of one that was not read before."""
        latest = {log.path for log in logs[-_MOST_OPENED:]}
        for log in logs:
            look = log.size, log.modified
            if log.path in latest or self._looks.get(log.path) != look:
                self._looks[log.path] = look
                yield from self._read(log, None)

    def rest(self) -> Iterator[LogLine]:
        """Last lines that have no end, and are about to get none."""
        for path, (file, trial) in self._files.items():
            for line in file.rest():
                if trial is None or trial.takes(line):
                    yield LogLine(path=path, text=line)

    def _read(self, log: WorkerLog, num_lines: int | None) -> Iterator[LogLine]:
        """What was not read yet; of a log that was never read, as many last lines, or all."""
        try:
            if log.path not in self._files:
                self._open(log.path, 0 if num_lines is None else self._start(log, num_lines))
            file, trial = self._files[log.path]
            for line in file.new_lines():
                if trial is None or trial.takes(line):
                    yield LogLine(path=log.path, text=line)
        except OSError as exc:
            self._say(str(storage_error(exc, log.path, "read")))

    def _open(self, path: Path, start: int) -> None:
        self._files[path] = GrowingFile(path, start=start), None if self._trial is None else TrialLines(self._trial)

    def _start(self, log: WorkerLog, num_lines: int) -> int:
        if self._trial is None:
            return start_of_last_lines(log.path, num_lines)
        if log.size > MOST_SEARCHED:
            self._say(f"{log.path} is long: only its last {MOST_SEARCHED >> 20} MB are searched for the trial")
        return max(0, log.size - MOST_SEARCHED)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def follow(
    reader: LogReader,
    find_logs: Callable[[], Sequence[WorkerLog]],
    is_over: Callable[[], bool],
    show: Callable[[LogLine], None],
) -> None:
    """Show what is added to logs until all is over and nothing comes any more.

    Args:
        reader: Of the logs.
        find_logs: Which logs to follow, by when they were last written; asked every few seconds.
        is_over: Whether no more is to come; asked as often.
        show: Called with each line.
    """
    asked, quiet_looks, ended = -_ASK_S, 0, False
    logs: Sequence[WorkerLog] = ()
    while not ended or quiet_looks < _QUIET_LOOKS:
        if time.monotonic() - asked >= _ASK_S:
            ended = is_over()  # Before the logs: what was written until then is read.
            logs, asked = find_logs(), time.monotonic()
        num_lines = 0
        for line in reader.new_lines(logs):
            show(line)
            num_lines += 1
        quiet_looks = 0 if num_lines else quiet_looks + 1
        time.sleep(_POLL_S)
    for line in reader.rest():
        show(line)
