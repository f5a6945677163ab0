"""``kdhpc status --watch``: the live view.

One thread reads the database, another one asks Slurm and reads logs, and the main thread draws: so whichever of them
hangs, the view stays, says what it does not know, and ends at once when it is told to.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from kdhpc.cli.parts import Part
from kdhpc.cli.table import plain
from kdhpc.cli.terminal import Terminal
from kdhpc.cli.watch_view import Asides, View, fitted_parts, troubled_jobs, view_parts
from kdhpc.cluster import slurm
from kdhpc.errors import DatabaseError, KdhpcError
from kdhpc.searching.jobs import mark_lost, study_jobs
from kdhpc.searching.last_words import last_words
from kdhpc.study.status import StudyStatus, read_status
from kdhpc.study.storage import Storage

_LOOK_S = 0.25
"""So often is looked whether the window has another size."""
_PIPE_WORKERS = 20
_SILENT_S = 5.0
"""So much later than expected is an answer of the database missing."""
_LAST_ASK_S = 6.0
"""Slurm's commands have a shorter time limit: none is left behind."""


def watch(storage: Storage, study: str, every_s: float) -> int:
    """Show a study until all of it is trained.

    Args:
        storage: Its calls should give up soon.
        study: Its name.
        every_s: How often it is read, in seconds.

    Returns:
        0: all is trained.

    Raises:
        KdhpcError: the study cannot be read at first, or is not there any more.
        KeyboardInterrupt: the user has seen enough; the terminal is as it was.
    """
    news = News(storage, study, every_s)
    terminal = Terminal(sys.stdout) if sys.stdout.isatty() else None
    with news.coming():
        if terminal is not None and terminal.can_redraw:
            _draw(news, terminal)
        else:
            _print_blocks(news, terminal)
    return 0


class News:
    """What is known of a study, read again and again by threads of its own.

    Args:
        storage: The database.
        study: The study's name.
        every_s: How often it is read.
    """

    def __init__(self, storage: Storage, study: str, every_s: float) -> None:
        self._storage = storage
        self._study = study
        self._every_s = every_s
        self.changed = threading.Event()
        """Set with each news; whoever has seen them clears it."""
        self.complete = threading.Event()
        """As well, but only where all is known of a reading, or where the database has gone away."""
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._status: StudyStatus | None = None
        self._read_at = self._read_s = 0.0
        self._asides = Asides()
        self._away: tuple[float, str] | None = None
        self._error: BaseException | None = None

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While entered, news come in."""
        asking = threading.Thread(target=self._guarded, args=(self._ask,), name="slurm", daemon=True)
        reading = threading.Thread(target=self._guarded, args=(self._read,), name="database", daemon=True)
        for thread in (asking, reading):
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._asked.set()
            asking.join(_LAST_ASK_S)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return self._status is not None and self._status.unfinished == 0

    def view(self) -> View | None:
        """What is known now; None: nothing yet.

        Raises:
            KdhpcError: as for :func:`watch`.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._status is None:
                return None
            return View(status=self._status, asides=self._asides, read_at=self._read_at, away=self._away_words())

    def _away_words(self) -> str | None:
        if self._away is not None:
            since, words = self._away
            return f"since {_time(since)}, what is below is older: {words}"
        if time.monotonic() - self._read_s > self._every_s + _SILENT_S:
            return f"the database does not answer, what is below is of {_time(self._read_at)}"
        return None

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do a thread's work; what ends it is raised by whoever asks for news."""
        try:
            work()
        except BaseException as exc:
            with self._lock:
                self._error = self._error or exc
            self.changed.set()
            self.complete.set()

    def _read(self) -> None:
        """Body of the thread that reads the database."""
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                status = read_status(self._storage, self._study)
            except DatabaseError as exc:
                if self._status is None:
                    raise
                with self._lock:
                    is_new, since = (True, time.time()) if self._away is None else (False, self._away[0])
                    self._away = (since, str(exc))
                if is_new:
                    self.complete.set()
            else:
                with self._lock:
                    self._status, self._read_at, self._read_s = status, time.time(), time.monotonic()
                    self._away = None
                self._asked.set()
            self.changed.set()
            self._ended.wait(max(0.0, self._every_s - (time.monotonic() - began)))

    def _ask(self) -> None:
        """Body of the thread that asks Slurm, once after each reading at most, and reads logs."""
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._ended.is_set():
                return
            assert self._status is not None
            asides = _asides(self._status)
            with self._lock:
                self._asides = asides
            self.changed.set()
            self.complete.set()


def _asides(status: StudyStatus) -> Asides:
    """Of the study whose status was read just before."""
    jobs, problem, gone = None, None, frozenset[str]()
    if slurm.is_available():
        try:
            jobs = study_jobs(status.study, (worker.job for worker in status.workers if worker.job))
            marked = mark_lost(status, jobs).workers
            gone = frozenset(
                before.job
                for before, after in zip(status.workers, marked, strict=True)
                if before.job and after.lost and not before.lost
            )
        except (KdhpcError, OSError) as exc:
            problem = str(exc)
    return Asides(
        jobs=jobs, problem=problem, gone=gone, last_words=last_words(status.study, troubled_jobs(status, gone))
    )


def _draw(news: News, terminal: Terminal) -> None:
    """Redraw the terminal's screen; in the end, what was there before comes back, and the last view below it."""
    from rich.live import Live

    shown: tuple[View | None, tuple[int, int]] | None = None
    try:
        with (
            _terminated_cleanly(),
            Live(
                console=terminal.console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            ) as live,
        ):
            while True:
                is_over, view, size = news.is_over, news.view(), terminal.measure()
                if shown != (view, size):
                    shown = view, size
                    live.update(terminal.drawn(_screen(view, terminal)), refresh=True)
                if is_over:
                    break
                news.changed.wait(_LOOK_S)
                news.changed.clear()
    finally:
        if shown is not None and shown[0] is not None:
            terminal.print(_screen(shown[0], terminal))


def _screen(view: View | None, terminal: Terminal) -> list[Part]:
    return ["reading ..."] if view is None else fitted_parts(view, terminal.measure()[1], terminal.num_lines)


def _print_blocks(news: News, terminal: Terminal | None) -> None:
    """A block of text for each reading, to a pipe or to a terminal whose cursor cannot be moved."""
    while True:
        news.complete.wait()
        news.complete.clear()
        is_over = news.is_over
        view = news.view()
        if view is None:
            continue
        parts = [*view_parts(view, num_workers=_PIPE_WORKERS), ""]
        if terminal is None:
            print(plain(parts), flush=True)
        else:
            terminal.measure()
            terminal.print(parts)
        if is_over:
            return


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """While entered, SIGTERM ends this process in order, so that the terminal becomes what it was."""

    def end(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _time(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
