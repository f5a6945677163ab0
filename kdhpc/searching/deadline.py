"""Whether a trial that starts now reaches its first rung before the job's time limit."""

import time
from collections.abc import Callable

from kdhpc.cluster import slurm
from kdhpc.config.paths import StudyPaths
from kdhpc.training.metrics import read_metrics

_LATEST_TRIALS = 20
# From a job's start to its worker's first trial: Python and torch are loaded, the database and the data opened.
_BEGINNING_S = 60.0


class Deadline:
    """When this job will be told to stop, and how long trials take to their first rung.

    Args:
        paths: Of the study, whose trials tell how long an epoch takes.
        signal_delay_s: How many seconds before its time limit a job is signalled to stop.
        num_begun: Returns how many trials of the study were ever begun. Folders of trials with later numbers are left
            from an earlier study of the same name.
    """

    def __init__(self, paths: StudyPaths, signal_delay_s: float, *, num_begun: Callable[[], int]) -> None:
        limit = slurm.time_limit()
        self._paths = paths
        self._told = None if limit is None else time.monotonic() + limit.left_s - signal_delay_s
        self._longest_s = None if limit is None else limit.whole_s - signal_delay_s - _BEGINNING_S
        self._num_begun = num_begun
        self._own: list[float] = []

    def learn(self, number: int) -> None:
        """Take into account how long a trial of this worker took to its first rung, if it went through it."""
        self._own += self._first_epochs([number])

    def seconds_short(self) -> float:
        """How many seconds are missing for a trial to reach its first rung; 0: none are, or that is not known."""
        return 0.0 if self._told is None else max(0.0, self._needed_s() - (self._told - time.monotonic()))

    def seconds_too_short(self) -> float:
        """By how many seconds the job's whole time limit is too short for that; 0: it is not, or is not known."""
        return 0.0 if self._longest_s is None else max(0.0, self._needed_s() - self._longest_s)

    def _needed_s(self) -> float:
        """Seconds until a trial's first rung: the longest of this worker's trials, or else of the study's latest."""
        return max(self._own or self._first_epochs(self._latest_trials()), default=0.0)

    def _latest_trials(self) -> list[int]:
        num_begun = self._num_begun()
        return list(range(max(0, num_begun - _LATEST_TRIALS), num_begun))

    def _first_epochs(self, numbers: list[int]) -> list[float]:
        """Durations of these trials' first epochs, in seconds, as far as they are written down."""
        reports = (report for number in numbers for report in read_metrics(self._paths.metrics(number)))
        return [report.seconds for report in reports if report.epoch == 1]
