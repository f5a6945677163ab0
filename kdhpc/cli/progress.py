"""How far a study is, in one line."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from kdhpc.config.goals import GOALS
from kdhpc.live_line import LiveLine, Part, Shown, fitted, line_width

if TYPE_CHECKING:
    from kdhpc.study.status import StudyStatus


class Progress:
    """The line on stderr: one that is rewritten on a terminal; in a file, a line whenever something changed.

    A terminal shows it while this is entered.
    """

    def __init__(self) -> None:
        self._line = LiveLine(self._shown)
        self._status: StudyStatus | None = None
        self._last = ""
        self._began = time.monotonic()

    def __enter__(self) -> "Progress":
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_drawn = self._line.is_drawn
        self._line.stop()
        if was_drawn and self._status is not None:
            width = line_width(sys.stderr)
            line = self._last if len(self._last) <= width else fitted(progress_parts(self._status), width)
            print(line, file=sys.stderr, flush=True)

    def __call__(self, status: "StudyStatus") -> None:
        """Show it."""
        line = progress_line(status)
        if not self._line.is_drawn and _steady(line) != _steady(self._last):
            print(line, file=sys.stderr, flush=True)
        self._status, self._last = status, line

    def tell(self, text: str) -> None:
        """A line of its own, above the progress."""
        self._line.above(f"kdhpc: {text}")

    def _shown(self) -> Shown:
        status = self._status
        if status is None:
            passed = time.monotonic() - self._began
            return Shown(parts=(Part(text="starting the search"), Part(text=f"{passed:.0f} s", rank=1)))
        return Shown(parts=progress_parts(status), fraction=status.trials.finished / max(1, status.target))


def _steady(line: str) -> str:
    """The line without its guess of the time to go, which changes all the time."""
    return line.split(", about")[0]


def progress_line(status: "StudyStatus") -> str:
    """One line: ``quickstart: 5/16 trials (3 complete, 2 pruned), 2 running, best 71.20 % (trial 3), 1 min to go``."""
    trials = status.trials
    diverged = f", {trials.diverged} diverged" if trials.diverged else ""
    failed = f", {trials.failed} FAILED" if trials.failed else ""
    ended = f" ({trials.complete} complete, {trials.pruned} pruned{diverged}{failed})"
    first, *others = progress_parts(status)
    return ", ".join([f"{first.text}{ended}", *(part.text for part in others if part.rank != _ENDED)])


_ENDED = 6
"""Rank of how trials ended, which a whole line says beside their number."""


def progress_parts(status: "StudyStatus") -> tuple[Part, ...]:
    """The parts of the line, with the ranks by which a narrow terminal leaves some out."""
    trials = status.trials
    parts = [Part(text=f"{status.study}: {trials.finished}/{status.target} trials")]
    if trials.failed:
        parts.append(Part(text=f"{trials.failed} FAILED", rank=_ENDED))
    if status.given_trials.target:
        given = status.given_trials
        failed = f" ({given.failed} FAILED)" if given.failed else ""
        parts.append(Part(text=f"{given.finished}/{given.target} given{failed}", rank=5))
    parts.append(Part(text=f"{status.running} running", rank=3))
    if status.max_gpu_hours is not None:
        parts.append(Part(text=f"{status.hours_used:.2f} of {status.max_gpu_hours:g} h used", rank=4))
    if status.best is not None:
        goal, known = GOALS[status.goal], status.best.confirmed
        confirmed = "" if known is None else f", confirmed {goal.shown(known.mean)}"
        parts.append(Part(text=f"best {goal.named(status.best.value)} (trial {status.best.number}){confirmed}", rank=2))
    if status.seconds_to_go:
        parts.append(Part(text=f"about {duration(status.seconds_to_go)} to go", rank=1))
    return tuple(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
