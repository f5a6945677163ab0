"""Whether a trial that starts now reaches its first rung before the job's time limit."""

import contextlib
import time

from kdhpc.cluster import slurm
from kdhpc.config.paths import StudyPaths
from kdhpc.training.metrics import read_metrics

_LATEST_TRIALS = 20


class Deadline:
    """When this job will be told to stop, and how long trials take to their first rung.

    Args:
        paths: Of the study, whose trials tell how long an epoch takes.
        signal_delay_s: How long before its time limit a job is told.
    """

    def __init__(self, paths: StudyPaths, signal_delay_s: float) -> None:
        left = slurm.seconds_left()
        self._trials = paths.trial(0).parent
        self._told = None if left is None else time.monotonic() + left - signal_delay_s
        self._own: list[float] = []

    def learn(self, number: int) -> None:
        """Take into account how long a trial of this worker took to its first rung, if it went through it."""
        self._own += self._first_epochs([number])

    def seconds_short(self) -> float:
        """How much too little time is left for a trial to reach its first rung; 0 where it is enough, or not known."""
        if self._told is None:
            return 0.0
        needed = max(self._own or self._first_epochs(self._latest_trials()), default=0.0)
        return max(0.0, needed - (self._told - time.monotonic()))

    def _latest_trials(self) -> list[int]:
        numbers = (int(path.name) for path in self._trials.glob("[0-9]*") if path.name.isdigit())
        return sorted(numbers)[-_LATEST_TRIALS:]

    def _first_epochs(self, numbers: list[int]) -> list[float]:
        """Durations of these trials' first epochs, in seconds, as far as they are written down."""
        found: list[float] = []
        for number in numbers:
            # Another worker may be writing it.
            with contextlib.suppress(OSError, ValueError):
                reports = read_metrics(self._trials / str(number) / "metrics.jsonl")
                found += [report.seconds for report in reports if report.epoch == 1]
        return found
