"""How far final trainings are: on a terminal a line that is rewritten, and everywhere a line for each epoch."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from kdhpc.cli.progress import duration
from kdhpc.live_line import LiveLine, Part, Shown, fitted

if TYPE_CHECKING:
    from kdhpc.final.final import Position
    from kdhpc.training.loop import EpochReport

_SETTLED_S = 2.0
"""A guess of the time to go is shown after so long."""


class TrainingProgress:
    """Progress of one training after another. While entered, a terminal shows where they stand.

    It counts steps as they are handed to the device, and asks the device nothing.
    """

    def __init__(self) -> None:
        self._line = LiveLine(self._shown)
        self._stage, self._since = "starting", time.monotonic()
        self._number = self._total = 1
        self._left = 0
        self._seed: int | None = None
        self._position: Position | None = None
        self._step = 0
        self._clock: tuple[int, float] | None = None
        self._last: EpochReport | None = None

    def __enter__(self) -> "TrainingProgress":
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def stage(self, what: str) -> None:
        """Say what is done before there are steps."""
        self._stage, self._since, self._position = what, time.monotonic(), None

    def next_training(self, seed: int, *, number: int = 1, total: int = 1, left: int = 0) -> None:
        """A training begins.

        Args:
            seed: Its seed.
            number: Which it is, from 1.
            total: Number of trainings.
            left: How many after it are still to be done.
        """
        self._seed, self._number, self._total, self._left, self._last = seed, number, total, left, None
        self.stage("loading")

    def begun(self, position: "Position") -> None:
        """It stands before its next step."""
        self._step, self._clock, self._last = position.step, None, None
        self._since = time.monotonic()
        self._position = position

    def stepped(self) -> None:
        """A step has been handed to the device."""
        self._step += 1
        if self._clock is None:  # The first step takes longer: programs are compiled.
            self._clock = (self._step, time.monotonic())

    def report(self, report: "EpochReport") -> None:
        """An epoch is done: a line of its own.

        Raises:
            OSError: nobody reads it any more.
        """
        assert self._position is not None
        self._last = report
        self._line.above(epoch_line(report, self._position.epochs, self._line.width))

    def hide(self) -> None:
        """Take the line away, before something is printed to standard output; the next training draws it again."""
        self._line.stop()

    def show(self) -> None:
        """Draw the line again."""
        self._line.start()

    def _shown(self) -> Shown:
        # In the line's thread: what the training's thread changes meanwhile makes a wrong number at worst.
        position, now = self._position, time.monotonic()
        ahead = [Part(text=f"{self._number} of {self._total}", rank=5)] * (self._total > 1)
        ahead += [Part(text=f"seed {self._seed}", rank=4)] * (self._seed is not None)
        if position is None:
            return Shown(parts=(*ahead, *_waiting(self._stage, now - self._since)))
        per_epoch, whole = position.steps_per_epoch, position.steps_per_epoch * position.epochs
        step, is_first = min(self._step, whole), self._clock is None
        epoch, step_in_epoch = divmod(max(0, step - 1), per_epoch)
        if is_first:
            return Shown(parts=(*ahead, *_waiting("first step: preparing, compiling", now - self._since)))
        is_scoring = step_in_epoch + 1 == per_epoch and (self._last is None or self._last.epoch <= epoch)
        parts = [
            *ahead,
            Part(text=f"epoch {epoch + 1}/{position.epochs}"),
            Part(text="scoring" if is_scoring else f"step {step_in_epoch + 1}/{per_epoch}", rank=2),
            *self._to_go(whole, now),
            *_accuracy(self._last),
        ]
        return Shown(parts=tuple(parts), fraction=step / whole)

    def _to_go(self, whole: int, now: float) -> list[Part]:
        assert self._clock is not None
        first, began = self._clock
        if self._step <= first or now - began < _SETTLED_S:
            return []
        each = (now - began) / (self._step - first)
        rest = each * max(0, whole - self._step)
        parts = [Part(text=f"{duration(rest)} to go", rank=1)]
        if self._left:
            parts.append(Part(text=f"{duration(rest + self._left * each * whole)} for all", rank=3))
        return parts


def _waiting(what: str, seconds: float) -> list[Part]:
    return [Part(text=what), Part(text=f"{seconds:.0f} s", rank=1)]


def _accuracy(report: "EpochReport | None") -> list[Part]:
    if report is None or report.ensemble_accuracy is None:
        return []
    return [Part(text=f"ensemble {report.ensemble_accuracy:.2f} %", rank=6)]


def epoch_line(report: "EpochReport", epochs: int, width: int | None = None) -> str:
    """One epoch in a line.

    Args:
        report: The epoch's.
        epochs: How many there are.
        width: Longest line, in characters: the nodes' own numbers are left out first; None: any length.
    """
    losses = " ".join(f"{loss:.3f}" for loss in report.train_losses)
    accuracies = ""
    if report.ensemble_accuracy is not None and report.node_accuracies is not None:
        nodes = " ".join(f"{accuracy:.2f}" for accuracy in report.node_accuracies)
        accuracies = f", ensemble {report.ensemble_accuracy:.2f} %, nodes {nodes} %"
    line = f"epoch {report.epoch}/{epochs}: loss {losses}{accuracies} ({report.seconds:.1f} s)"
    if width is None or len(line) <= width:
        return line
    mean = sum(report.train_losses) / len(report.train_losses)
    parts = [
        Part(text=f"epoch {report.epoch}/{epochs}: loss {mean:.3f}"),
        *_accuracy(report),
        Part(text=f"{report.seconds:.1f} s", rank=7),
    ]
    return fitted(parts, width)
