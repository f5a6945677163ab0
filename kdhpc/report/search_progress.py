"""How a search got better over its trials, and over the hours that it took."""

import math
from dataclasses import dataclass
from itertools import accumulate

from kdhpc.config.goals import GOALS
from kdhpc.study.search_history import SearchHistory


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A complete trial."""

    number: int
    """Its number."""
    place: int
    """How many trials had ended with it."""
    hours: float
    """That had been used then."""
    value: float
    """By the study's goal."""
    best: float
    """The best value until then."""


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """A search from its beginning to now."""

    completed: tuple[Completed, ...]
    """In the order of their ends."""
    num_ended: int
    """Trials that ended, of whatever kind."""
    hours: float
    """That are used now; where several trials share a worker, they count once."""


def follow_progress(history: SearchHistory) -> SearchProgress:
    """The order in which trials ended.

    The hours at a trial's end are those of all trials that ended until then, in proportion to the hours that the study
    has used: where several share a worker, its hours count once.
    """
    better = max if GOALS[history.definition.goal].maximise else min
    ended = sorted(
        ((trial.ended, trial.number, trial) for trial in history.trials if trial.ended is not None), key=lambda e: e[:2]
    )
    worked = sum(spent.hours for spent in history.spent if not spent.is_given)
    used = history.status.hours_used
    scale = used / worked if worked > 0 else 0.0
    hours = list(accumulate(trial.worked_s / 3600 * scale for _, _, trial in ended))
    completed: list[Completed] = []
    best: float | None = None
    for place, ((_, number, trial), until) in enumerate(zip(ended, hours, strict=True), start=1):
        if trial.value is None or not math.isfinite(trial.value):
            continue
        best = trial.value if best is None else better(best, trial.value)
        completed.append(Completed(number=number, place=place, hours=until, value=trial.value, best=best))
    return SearchProgress(completed=tuple(completed), num_ended=len(ended), hours=max([used, *hours]))
