"""What the best trials of a search have in common: which gates, designs and networks they use more often than others.

All trials that ended are ranked: the further one came, the better; of those that came equally far, by the value there.
So pruned trials count as well: a search that prunes has few others. Failed ones are left out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdhpc.config.goals import GOALS
from kdhpc.graph.shares import choices_of, expected_shares
from kdhpc.study.importance import importances
from kdhpc.study.search_history import SearchHistory
from kdhpc.study.trial_table import TrialRow

TOP_SHARE, LEAST_TOP, LEAST_TRIALS = 0.05, 5, 10
"""The best trials are this part of all; but not fewer than so many; and of fewer trials than those, nothing is said."""


@dataclass(frozen=True, kw_only=True)
class ChoiceShare:
    """How often a choice is used; all are parts of 1."""

    name: str
    """Such as ``through``, ``prob+``, ``resnet20``."""
    expected: float
    """Under the search space."""
    tried: float | None
    """Of all trials that are ranked; None: the parameter has no effect in any of them."""
    top: float | None
    """Of the best trials; None as well."""
    surprise: float | None
    """How far ``top`` is from ``expected``, in standard errors of a share of so many independent draws; None where one
    of them is missing, or the choice is the only one."""


@dataclass(frozen=True, kw_only=True)
class ParameterChoices:
    """A gate, a design or a network of the graph."""

    name: str
    """As Optuna knows it, such as ``edge_1_2_gate``."""
    importance: float
    """Of all parameters together it is 1, or 0 where nothing differs."""
    num_top: int
    """Best trials in which it has an effect."""
    choices: tuple[ChoiceShare, ...]
    """In the order of the space."""

    @property
    def kind(self) -> str:
        """``gate``, ``design`` or ``network``."""
        return "network" if self.name.startswith("network_") else self.name.rsplit("_", 1)[1]

    @property
    def edge(self) -> str:
        """For people: ``label → 1``, ``1 → 2``, ``node 1``."""
        first, *rest = self.name.split("_")
        return (
            f"label → {rest[0]}"
            if first == "label"
            else f"node {rest[0]}"
            if first == "network"
            else " → ".join(rest[:2])
        )

    @property
    def label(self) -> str:
        """For people: ``1 → 2 gate``."""
        return f"{self.edge} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class SearchChoices:
    """What the best trials chose."""

    num_ranked: int
    """Trials that are ranked."""
    num_top: int
    """The best ones of them; 0: there are too few trials to say anything."""
    parameters: tuple[ParameterChoices, ...] = ()
    """In the order of the space; none if there are too few trials."""


def compare_choices(history: SearchHistory) -> SearchChoices:
    """Compare the best trials with all of them, and with the search space."""
    space = history.definition.space
    ranked = [choices_of(space, trial.graph) for trial in _ranked(history) if trial.graph is not None]
    num_top = max(LEAST_TOP, math.ceil(TOP_SHARE * len(ranked)))
    if len(ranked) < max(LEAST_TRIALS, num_top + 1):
        return SearchChoices(num_ranked=len(ranked), num_top=0)
    expected = expected_shares(space)
    weights = importances(ranked, {name: tuple(shares) for name, shares in expected.items()}, num_top=num_top)
    return SearchChoices(
        num_ranked=len(ranked),
        num_top=num_top,
        parameters=tuple(_parameter(name, shares, ranked, num_top, weights[name]) for name, shares in expected.items()),
    )


def _ranked(history: SearchHistory) -> list[TrialRow]:
    sign = GOALS[history.definition.goal].sign

    def place(trial: TrialRow) -> tuple[float, ...]:
        if trial.state == "diverged" or trial.last_epoch is None or trial.last_value is None:
            return (1, 0, 0, trial.number)
        epoch = history.definition.last_epoch if trial.state == "complete" else trial.last_epoch
        value = trial.last_value if trial.value is None else trial.value
        return (0, -epoch, -sign * value, trial.number)

    return sorted((trial for trial in history.trials if trial.state in ("complete", "pruned", "diverged")), key=place)


def _parameter(
    name: str, expected: Mapping[str, float], ranked: Sequence[Mapping[str, str]], num_top: int, importance: float
) -> ParameterChoices:
    tried = Counter(chosen[name] for chosen in ranked if name in chosen)
    top = Counter(chosen[name] for chosen in ranked[:num_top] if name in chosen)
    return ParameterChoices(
        name=name,
        importance=importance,
        num_top=top.total(),
        choices=tuple(
            ChoiceShare(
                name=choice,
                expected=share,
                tried=_part(tried, choice),
                top=_part(top, choice),
                surprise=_surprise(_part(top, choice), share, top.total()),
            )
            for choice, share in expected.items()
        ),
    )


def _part(counts: Counter[str], choice: str) -> float | None:
    return counts[choice] / counts.total() if counts else None


def _surprise(share: float | None, expected: float, number: int) -> float | None:
    if share is None or not 0 < expected < 1:
        return None
    return (share - expected) / math.sqrt(expected * (1 - expected) / number)
