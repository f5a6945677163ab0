"""Signals that ask a process to stop, turned into a flag that it reads between two steps."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_LOG = logging.getLogger(__name__)
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
_INTERRUPTED = 130
_FAREWELL = b"\nkdhpc: interrupted twice, ended at once; the same command goes on from the last checkpoints\n"


class StopSignals:
    """While entered, SIGINT, SIGTERM, SIGUSR2 and SIGHUP only set :attr:`requested`.

    submitit installs handlers of its own before it calls a worker: with these, USR2 would raise in the middle of a
    step, and TERM would be ignored. They are replaced while this context is entered. If SIGHUP is ignored, it stays
    ignored: the user has started the process with ``nohup``, so a closed terminal is no reason to stop.

    Args:
        ends_at_second: After a first signal, a SIGINT ends this process at once, even in a call that waits for a
            server. For commands that people start in a terminal.
    """

    def __init__(self, *, ends_at_second: bool = False) -> None:
        self._ends_at_second = ends_at_second
        self._before_the_end: Callable[[], None] = _nothing
        self._received: list[signal.Signals] = []
        self._is_told = False
        self._previous: dict[signal.Signals, object] = {}
        self._watch: _Watch | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come. The first read that finds one logs it.

        The handler itself does not log, as it may run while another line is being written.
        """
        if self._received and not self._is_told:
            self._is_told = True
            _LOG.warning("%s: stopping after this step", self._received[0].name)
        return bool(self._received)

    @property
    def out_of_time(self) -> bool:
        """Whether USR2 has come, with which Slurm announces the time limit, and no other signal."""
        return bool(self._received) and set(self._received) == {signal.SIGUSR2}

    @property
    def terminated(self) -> bool:
        """Whether TERM has come, with which Slurm, or a person, ends this process."""
        return signal.SIGTERM in self._received

    def stop(self, because: signal.Signals) -> None:
        """Request a stop, as if this signal had come."""
        self._received.append(because)

    def call_at_second(self, before_the_end: Callable[[], None]) -> None:
        """Set a function that is called, in another thread, before a second signal ends this process."""
        self._before_the_end = before_the_end

    def __enter__(self) -> "StopSignals":
        for number in _STOPPING:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._receive)
        if self._ends_at_second:
            self._watch = _Watch(lambda: self._before_the_end())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(signal.Signals(number))


def _nothing() -> None:
    pass


class _Watch:
    """Ends this process at a SIGINT that follows another signal.

    Python runs its signal handlers in the main thread, between two bytecodes. They never run while that thread waits
    in a library's call. So the signals' numbers also go to a pipe (``signal.set_wakeup_fd``), which a thread reads.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._previous = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._read, name="second signal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        signal.set_wakeup_fd(self._previous)
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

    def _read(self) -> None:
        num_before = 0
        while number := os.read(self._reading, 1):
            if num_before and number[0] == signal.SIGINT:
                self._before()
                with contextlib.suppress(OSError):
                    os.write(2, _FAREWELL)
                os._exit(_INTERRUPTED)
            num_before += number[0] in _STOPPING
