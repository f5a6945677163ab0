"""How far the jobs of a sweep are, on a terminal: told by the files that they write."""

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from kdhpc.cli.progress import duration
from kdhpc.errors import StorageError
from kdhpc.files.reading import read_whole
from kdhpc.live_line import LiveLine, Part, Shown

if TYPE_CHECKING:
    from kdhpc.final.run import Run

_EVERY_S = 5.0


class SweepProgress:
    """While entered, a terminal shows how many trainings and epochs are done. Files are looked at every five seconds.

    Args:
        runs: What is trained.
    """

    def __init__(self, runs: "Sequence[Run]") -> None:
        self._runs = runs
        self._line = LiveLine(self._shown)
        self._looked: float | None = None
        self._done = self._epochs = 0
        self._clock: tuple[int, float] | None = None

    def __enter__(self) -> "SweepProgress":
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def _shown(self) -> Shown:
        now = time.monotonic()
        if self._looked is None or now - self._looked >= _EVERY_S:
            self._look(now)
        total = sum(run.config.training.epochs for run in self._runs)
        parts = [
            Part(text=f"{self._done}/{len(self._runs)} trainings"),
            Part(text=f"{self._epochs}/{total} epochs", rank=2),
            *self._to_go(total, now),
        ]
        return Shown(parts=tuple(parts), fraction=self._epochs / total)

    def _look(self, now: float) -> None:
        self._done = self._epochs = 0
        for run in self._runs:
            is_done = run.paths.result.exists()
            self._done += is_done
            self._epochs += run.config.training.epochs if is_done else _epochs_of(run)
        self._looked = now
        if self._clock is None:
            self._clock = (self._epochs, now)

    def _to_go(self, total: int, now: float) -> list[Part]:
        assert self._clock is not None
        first, began = self._clock
        if self._epochs <= first:
            return [Part(text=f"{duration(now - began)} so far", rank=1)]
        rest = (now - began) / (self._epochs - first) * (total - self._epochs)
        return [Part(text=f"about {duration(rest)} to go", rank=1)]


def _epochs_of(run: "Run") -> int:
    """Epochs that a training has reported."""
    with contextlib.suppress(OSError, StorageError):
        return min(run.config.training.epochs, read_whole(run.paths.metrics).count(b"\n"))
    return 0
