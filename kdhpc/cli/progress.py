"""How far a study is, in one line."""

import sys
from typing import TYPE_CHECKING

from kdhpc.config.goals import GOALS
from kdhpc.printing import erase_line

if TYPE_CHECKING:
    from kdhpc.study.status import StudyStatus


class Progress:
    """The line on stderr: one that is rewritten on a terminal; in a file, a line whenever something changed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, status: "StudyStatus") -> None:
        """Show it."""
        line = progress_line(status)
        if sys.stderr.isatty():
            erase_line(sys.stderr)
            print(line, end="", file=sys.stderr, flush=True)
            if status.unfinished == 0:
                print(file=sys.stderr)
        elif _steady(line) != _steady(self._last):
            print(line, file=sys.stderr, flush=True)
        self._last = line

    def tell(self, text: str) -> None:
        """A line of its own, above the progress."""
        if sys.stderr.isatty():
            erase_line(sys.stderr)
        print(f"kdhpc: {text}", file=sys.stderr, flush=True)


def _steady(line: str) -> str:
    """The line without its guess of the time to go, which changes all the time."""
    return line.split(", about")[0]


def progress_line(status: "StudyStatus") -> str:
    """One line: ``quickstart: 5/16 trials (3 complete, 2 pruned), 2 running, best 71.20 % (trial 3), 1 min to go``."""
    trials = status.trials
    diverged = f", {trials.diverged} diverged" if trials.diverged else ""
    failed = f", {trials.failed} FAILED" if trials.failed else ""
    parts = [
        f"{status.study}: {trials.finished}/{status.target} trials "
        f"({trials.complete} complete, {trials.pruned} pruned{diverged}{failed})",
        f"{status.running} running",
    ]
    if status.given_trials.target:
        given = status.given_trials
        failed = f" ({given.failed} FAILED)" if given.failed else ""
        parts.insert(1, f"{given.finished}/{given.target} given{failed}")
    if status.max_gpu_hours is not None:
        parts.append(f"{status.hours_used:.2f} of {status.max_gpu_hours:g} h used")
    if status.best is not None:
        goal, known = GOALS[status.goal], status.best.confirmed
        confirmed = "" if known is None else f", confirmed {goal.shown(known.mean)}"
        parts.append(f"best {goal.named(status.best.value)} (trial {status.best.number}){confirmed}")
    if status.seconds_to_go:
        parts.append(f"about {duration(status.seconds_to_go)} to go")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
