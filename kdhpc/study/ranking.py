"""Which graphs of a search are best, and by how much they are better than those that it was given to compare with.

The best of thousands of noisy values is too good to be true. So graphs that were confirmed, which means trained again
with new seeds, rank by the mean of these trainings, before all others. One that diverged in any of them ranks last.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdhpc.config.goals import Goal
from kdhpc.study.given import GivenResult
from kdhpc.words import counted

CONFIRMED, UNCONFIRMED, DIVERGED = range(3)
"""Classes of graphs, from best to worst; within each, values decide."""


def advantage(value: float, other: float, goal: Goal) -> float:
    """By how much a value is better than another one; negative: it is worse."""
    return goal.sign * (value - other)


class Confirmation(Protocol):
    """What decides whether a graph counts as confirmed: :class:`GivenResult`, or less than that."""

    @property
    def graph_key(self) -> str:
        """12 hexadecimal digits, equal for graphs that train in the same way."""

    @property
    def is_candidate(self) -> bool:
        """It is one of the search's best, and ranks by what it comes to."""

    @property
    def values(self) -> tuple[float, ...]:
        """Of the trainings that are complete, by the study's goal."""

    @property
    def open(self) -> int:
        """Trainings that are still to come, or run."""

    @property
    def diverged(self) -> int:
        """Trainings whose numbers were none any more."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean over trainings with different seeds."""

    mean: float
    """By the study's goal: such as accuracy, in percent."""
    error: float | None
    """Standard error of the mean; None of a single training."""
    seeds: int
    """Trainings."""


@dataclass(frozen=True, kw_only=True)
class Lead:
    """By how much the best graph is better than a given one."""

    over: str
    """Name of the given graph."""
    points: float
    """By the study's goal: for accuracies, percentage points. Negative: the best graph is behind."""
    error: float | None
    """Standard error of the difference; None: it is not known, as one of the two was trained once only."""
    is_confirmed: bool
    """The best graph was trained again; else this is about its value in the search, which is the best of many."""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error; None: there are no values."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(mean=statistics.fmean(values), error=error, seeds=len(values))


def confirmed(result: Confirmation) -> Estimate | None:
    """What a candidate is confirmed to be; None: it is none, or its trainings are not all over, or one diverged."""
    if not result.is_candidate or result.open or result.diverged:
        return None
    return estimate(result.values)


def classes(results: Iterable[Confirmation]) -> dict[str, tuple[int, float | None]]:
    """The class of each graph that is not simply unconfirmed, by its key; and its mean where it is confirmed."""
    found: dict[str, tuple[int, float | None]] = {}
    for result in results:
        if result.is_candidate and result.diverged and not result.open:
            found[result.graph_key] = (DIVERGED, None)
        elif (known := confirmed(result)) is not None:
            found[result.graph_key] = (CONFIRMED, known.mean)
    return found


def leads(value: float, confirmation: Estimate | None, results: Iterable[GivenResult], goal: Goal) -> tuple[Lead, ...]:
    """By how much the best graph is better than each named one that has a value.

    Args:
        value: of the best graph in the search.
        confirmation: of the best graph; None: it is not confirmed.
        results: of all given graphs.
        goal: the study's.
    """
    found = []
    for result in results:
        other = estimate(result.values)
        if result.name is None or other is None:
            continue
        errors = (None if confirmation is None else confirmation.error, other.error)
        found.append(
            Lead(
                over=result.name,
                points=advantage(value if confirmation is None else confirmation.mean, other.mean, goal),
                error=None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1]),
                is_confirmed=confirmation is not None,
            )
        )
    return tuple(found)


def lead_line(leads: Sequence[Lead], study: str, goal: Goal, *, diverged: Sequence[str] = ()) -> str | None:
    """The lead in one line; None: there is nothing to compare with.

    ``the best graph is 0.90 points below independent and 0.20 points above dml: nothing is gained over independent``

    Args:
        leads: Over the given graphs that have a value.
        study: Its name.
        goal: Its goal.
        diverged: Names of given graphs that have none, as all their trainings diverged.
    """
    lost = (
        f"{_listed(diverged)} diverged, so nothing is known of a lead over {'it' if len(diverged) == 1 else 'them'}"
        if diverged
        else None
    )
    if not leads:
        return lost
    unit, worse, better = (" points", "below", "above") if goal.maximise else ("", "worse than", "better than")

    def compared(lead: Lead) -> str:
        if lead.points == 0 and lead.error is None:
            return f"as good as {lead.over}"
        points = _with_error(abs(lead.points), lead.error, goal)
        return f"{points}{unit} {worse if lead.points < 0 else better} {lead.over}"

    parts = [compared(lead) for lead in leads]
    behind = [lead.over for lead in leads if lead.points <= 0]
    told = f"the best graph is {_listed(parts)}"
    if behind:
        told += f": nothing is gained over {_listed(behind)}"
    if not all(lead.is_confirmed for lead in leads):
        told += f"; its value is the best of many, `kdhpc confirm --study {study}` trains it again"
    return told if lost is None else f"{told}; {lost}"


def estimate_words(known: Estimate, goal: Goal) -> str:
    """``71.20 ± 0.31 % (3 seeds)``: mean and standard error."""
    shown = f"{_with_error(known.mean, known.error, goal)}{goal.unit}"
    return f"{shown} ({counted(known.seeds, 'seed')})"


def _with_error(value: float, error: float | None, goal: Goal) -> str:
    return f"{value:.{goal.digits}f}" + ("" if error is None else f" ± {error:.{goal.digits}f}")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
