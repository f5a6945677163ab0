"""Signals that ask a process to stop, turned into a flag that it reads between two steps."""

import logging
import signal
from types import FrameType, TracebackType

_LOG = logging.getLogger(__name__)
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR2 only set :attr:`requested`.

    submitit installs handlers of its own before it calls a worker: USR2 would raise in the middle of a step, and TERM
    would be ignored. These replace them.
    """

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []
        self._is_told = False
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has come; told when this is first read: a handler may interrupt a line that is written."""
        if self._received and not self._is_told:
            self._is_told = True
            _LOG.warning("%s: stopping after this step", self._received[0].name)
        return bool(self._received)

    @property
    def out_of_time(self) -> bool:
        """USR2 has come, by which Slurm announces the time limit, and nothing that means a real end."""
        return bool(self._received) and set(self._received) == {signal.SIGUSR2}

    @property
    def terminated(self) -> bool:
        """TERM has come: somebody, or Slurm, ends this process."""
        return signal.SIGTERM in self._received

    def __enter__(self) -> "StopSignals":
        for number in _STOPPING:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(signal.Signals(number))
