"""The process that a tracker has to itself: ``python -m kdhpc.tracking.process TRACKER WAIT_S``.

Whatever a tracker does (importing for seconds, drawing random numbers, threads, signal handlers, printing, hanging,
ending its process), it does here, and training never hears of it. Messages come on standard input, answers go to
standard output; what trackers and their children read and print is the null device.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from kdhpc.errors import StorageError
from kdhpc.interpreter import import_users
from kdhpc.tracking.journal import Journal, open_journal, write_journal
from kdhpc.tracking.messages import Answer, Begin, End, Log, parse_message, to_line
from kdhpc.tracking.names import BUILT_IN, absence
from kdhpc.tracking.run import NotKeptError, Point, TrackedRun, Tracker

_LONGEST_PROBLEM = 300
_NICE = 10
_LOOK_S = 1.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Slurm sends them to all processes of a job. Training stops by them, and ends this one."""


def main() -> None:
    """Serve until standard input ends."""
    name, wait_s = sys.argv[1], float(sys.argv[2])
    messages = os.fdopen(os.dup(0), "rb")
    answers = _Answers()
    for ignored in _IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    os.nice(_NICE)
    threading.Thread(target=_end_after_parent, args=(os.getppid(), wait_s), daemon=True).start()
    if why := absence(name):
        answers.give(Answer(problem=why, hopeless=True))
        return
    try:
        make = _tracker(name)
    except BaseException as exc:  # Also SystemExit: a user's module may do anything.
        answers.give(Answer(problem=f"tracking={name} cannot be imported: {_words(exc)}", hopeless=True))
        return
    runs: dict[int, _OpenRun] = {}
    for line in messages:
        message = parse_message(line)
        if isinstance(message, Begin):
            runs[message.number] = _OpenRun(message, name, make, answers)
        elif isinstance(message, Log):
            runs[message.number].log(message.point)
        else:
            runs.pop(message.number).end(message)
    for number, run in runs.items():  # Training has died.
        run.end(End(number=number, state="interrupted", reason=""))
    os._exit(0)  # All runs are ended: nobody waits for what a tracker does at the exit.


class _Answers:
    """Standard output, which nobody else has from now on; standard input and error are taken away as well."""

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def give(self, answer: Answer) -> None:
        """Say it; training that has died hears nothing."""
        try:
            self._file.write(to_line(answer))
        except OSError:
            return


class _OpenRun:
    """A run that is tracked in this process."""

    def __init__(self, begin: Begin, tracker: str, make: Callable[[TrackedRun], Tracker], answers: _Answers) -> None:
        self._number = begin.number
        self._path = begin.run.record
        self._answers = answers
        self._tracker: Tracker | None = None
        self._journal = open_journal(self._path, tracker=tracker, key=begin.run.key)
        try:
            self._tracker = make(replace(begin.run, run_id=self._journal.run_id, token=self._journal.token))
            token = str(self._tracker.token)
        except BaseException as exc:
            self._tracker = None
            self._tell(exc)
            return
        if token != self._journal.token:
            self._journal = replace(self._journal, token=token, epoch=0)
        for point in begin.points:
            self.log(point)

    def log(self, point: Point) -> None:
        """Give an epoch to the tracker, unless it has it."""
        if self._tracker is None:
            return
        if point.epoch > self._journal.epoch:
            try:
                self._tracker.log(point.epoch, point.values)
            except BaseException as exc:
                self._tell(exc)
                return
            self._keep(replace(self._journal, epoch=point.epoch))
        self._answers.give(Answer(number=self._number, epochs=(point.epoch,)))

    def end(self, message: End) -> None:
        """End the run in the tracker."""
        try:
            if self._tracker is not None:
                self._tracker.end(message.state, message.reason)
        except NotKeptError as exc:
            self._keep(replace(self._journal, token=None, epoch=0))
            self._answers.give(Answer(number=self._number, lost=True, problem=str(exc)))
        except BaseException as exc:
            self._tell(exc)
        self._answers.give(Answer(number=self._number, ended=True))

    def _keep(self, journal: Journal) -> None:
        self._journal = journal
        try:
            write_journal(journal, self._path)
        except StorageError as exc:
            self._tell(exc)

    def _tell(self, exc: BaseException) -> None:
        self._answers.give(Answer(number=self._number, problem=_words(exc)))


def _tracker(name: str) -> Callable[[TrackedRun], Tracker]:
    """What makes the tracker of a run."""
    module, _, place = BUILT_IN.get(name, name).partition(":")
    found: object = import_users(module)
    for part in place.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{place} is no class")
    return found


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:_LONGEST_PROBLEM]


def _end_after_parent(parent: int, wait_s: float) -> None:
    """A tracker that hangs must not outlive the training for long."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    time.sleep(wait_s)
    os._exit(1)


if __name__ == "__main__":
    main()
