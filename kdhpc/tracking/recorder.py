"""What training tells a tracker by. It never waits, never fails, and changes nothing but the tracker's files."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from kdhpc.config.schema import TrackingConfig
from kdhpc.errors import KdhpcError, LeaseLostError, RunTakenError
from kdhpc.tracking.child import TrackerProcess
from kdhpc.tracking.messages import Answer, Begin, End, Log, Message, to_line
from kdhpc.tracking.run import Point, State, TrackedRun

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 1000
"""Messages that wait for a tracker that is slow; more are dropped."""
_MOST_STARTS = 3
"""A tracker's process that dies is started again, so many times in all."""
_HURRY_S = 5.0
_KILLED_S = 5.0


class Recorder:
    """Passes epochs of runs on to the tracker of a config, in a process that begins with the first run.

    Args:
        config: Names the tracker; ``none``: nothing is passed on.
        most_waiting: Messages that may wait for it.
    """

    def __init__(self, config: TrackingConfig, *, most_waiting: int = _MOST_WAITING) -> None:
        self._config = config
        self._inbox: queue.Queue[tuple[RunRecord, Message] | None] = queue.Queue(most_waiting)
        self._lock = threading.Lock()
        self._records: dict[int, RunRecord] = {}
        self._num_begun = 0
        self._num_missing = 0
        self._thread: threading.Thread | None = None
        self._child: TrackerProcess | None = None
        self._open: dict[int, RunRecord] = {}
        self._num_starts = 0
        self._is_over = False
        self._is_hopeless = False
        self._told: set[str] = set()

    def begin(self, describe: Callable[[], TrackedRun], earlier: Callable[[], Iterable[Point]]) -> "RunRecord":
        """A run begins in this process, or goes on.

        Args:
            describe: Says what it is.
            earlier: The epochs that it has done already: a tracker is given those that it does not have.
        """
        if self._config.tracker == "none" or self._is_over:
            return RunRecord(None, -1, None, [])
        try:
            run, points = describe(), list(earlier())
        except Exception as exc:  # Training goes on.
            self._warn("describe", f"a run is not tracked: {type(exc).__name__}: {exc}")
            return RunRecord(None, -1, None, [])
        self._num_begun += 1
        record = RunRecord(self, self._num_begun, run, points)
        with self._lock:
            self._records[record.number] = record
        if self._thread is None:
            self._thread = threading.Thread(target=self._pass_on, name="tracking", daemon=True)
            self._thread.start()
        self.give(record, record.beginning)
        return record

    def give(self, record: "RunRecord", message: Message) -> None:
        """Let a message wait for the tracker; one that finds no room is dropped."""
        try:
            self._inbox.put_nowait((record, message))
        except queue.Full:
            if not self._is_over:
                self._warn(
                    "full",
                    f"tracking={self._config.tracker} is too slow, epochs are left out there; training goes on",
                )
            if isinstance(message, End):
                self._forget(record.number)

    def close(self, *, hurry: bool = False) -> None:
        """Wait for the tracker to have everything, for `TrackingConfig.wait_s` at most; then end its process.

        Args:
            hurry: This process was told to stop: wait for a few seconds at most. Whoever goes on with a run gives the
                tracker what it has missed.
        """
        if self._thread is None:
            return
        wait_s = min(self._config.wait_s, _HURRY_S) if hurry else self._config.wait_s
        deadline = time.monotonic() + wait_s
        self._finish(deadline)
        for number in list(self._records):
            self._forget(number)
        if self._num_missing and not self._is_hopeless:
            later = "; it gets them when their runs go on" if hurry else ""
            self._warn(
                "missing",
                f"tracking={self._config.tracker} does not have {self._num_missing} of the epochs here{later}",
            )

    def _finish(self, deadline: float) -> None:
        def left_s() -> float:
            return max(0.0, deadline - time.monotonic())

        assert self._thread is not None
        try:
            self._inbox.put(None, timeout=left_s())
            self._thread.join(left_s())
        except queue.Full:
            pass
        child = self._child
        is_done = not self._thread.is_alive() and (child is None or child.wait(left_s()))
        self._is_over = True
        if is_done or child is None:
            return
        _LOG.warning("tracking=%s is not waited for any longer (tracking.wait_s)", self._config.tracker)
        child.kill()
        child.wait(_KILLED_S)
        self._thread.join(_KILLED_S)
        if not self._thread.is_alive():
            child.finish()

    def _pass_on(self) -> None:
        """The thread: waits for the tracker, so that training need not."""
        while (item := self._inbox.get()) is not None:
            record, message = item
            if isinstance(message, Begin):
                self._open[record.number] = record
            if record.number in self._open:  # Its beginning was not dropped.
                self._send(message)
            if isinstance(message, End):
                self._open.pop(record.number, None)
        if self._child is not None:
            self._child.finish()

    def _send(self, message: Message) -> None:
        """Pass a message on; a process that has died is started again, and told of all runs that are open."""
        while not self._is_over:
            try:
                if self._child is None:
                    self._child = self._start()
                    for record in self._open.values():
                        self._child.write(to_line(record.beginning))
                    if isinstance(message, Begin):
                        return
                self._child.write(to_line(message))
                return
            except OSError as exc:
                self._bury(exc)

    def _start(self) -> TrackerProcess:
        self._num_starts += 1
        return TrackerProcess(self._config, self._hear)

    def _bury(self, exc: OSError) -> None:
        if self._child is not None:
            self._child.finish()
            self._child.kill()
            self._child.wait(_KILLED_S)
        if self._is_over:  # It has said why itself.
            return
        is_last = self._num_starts >= _MOST_STARTS
        why = "its process has ended" if self._child is not None else f"its process cannot be started: {exc}"
        self._child = None
        again = "training goes on without it" if is_last else "training goes on, and it is started again"
        self._warn("dead" if is_last else "died", f"tracking={self._config.tracker}: {why}; {again}")
        self._is_over = is_last

    def _hear(self, answer: Answer) -> None:
        with self._lock:
            record = self._records.get(answer.number)
            if record is not None:
                record.tracked.update(answer.epochs)
                if answer.lost:
                    record.tracked.clear()
        if answer.ended:
            self._forget(answer.number)
        if answer.hopeless:
            self._is_over = self._is_hopeless = True
            self._warn("hopeless", f"{answer.problem}; training goes on without it")
        elif answer.problem:
            self._warn(
                "problem",
                f"tracking={self._config.tracker} fails, training goes on: {answer.problem} (told once in a process)",
            )

    def _forget(self, number: int) -> None:
        """A run that the tracker has ended, or will hear no more of: its epochs that the tracker lacks are counted."""
        with self._lock:
            record = self._records.pop(number, None)
            if record is not None:
                self._num_missing += len({point.epoch for point in record.points} - record.tracked)

    def _warn(self, kind: str, text: str) -> None:
        """Each kind once: a tracker that fails may fail at each epoch."""
        if kind not in self._told:
            self._told.add(kind)
            _LOG.warning("%s", text)


class RunRecord:
    """What one run tells the tracker. As a context manager it ends the run, if nothing else has.

    Args:
        recorder: Passes it on; None: nothing is.
        number: Tells it from the recorder's other runs.
        run: What it is.
        points: The epochs that it has done.
    """

    def __init__(self, recorder: Recorder | None, number: int, run: TrackedRun | None, points: list[Point]) -> None:
        self.number = number
        self.points = points
        """All of its epochs."""
        self.tracked: set[int] = set()
        """Epochs that the tracker has."""
        self._recorder = recorder
        self._run = run
        self._has_ended = False

    @property
    def beginning(self) -> Begin:
        """What a tracker that knows nothing of the run is told."""
        assert self._run is not None
        return Begin(number=self.number, run=self._run, points=tuple(self.points))

    def report(self, point: Point) -> None:
        """An epoch has ended."""
        if self._recorder is not None:
            self.points.append(point)
            self._recorder.give(self, Log(number=self.number, point=point))

    def end(self, state: State, reason: str = "") -> None:
        """The run's time in this process is over."""
        if self._recorder is not None and not self._has_ended:
            self._recorder.give(self, End(number=self.number, state=state, reason=reason))
        self._has_ended = True

    def __enter__(self) -> "RunRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (LeaseLostError, RunTakenError)):
            self.end("lost")
        elif error is None or isinstance(error, KdhpcError) or not isinstance(error, Exception):
            self.end("interrupted", str(error or ""))
        else:
            self.end("failed", f"{type(error).__name__}: {error}")


UNTRACKED = Recorder(TrackingConfig())
"""Of trainings that no tracker is told of."""
