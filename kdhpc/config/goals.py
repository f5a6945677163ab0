"""Goals: what a search makes better, measured on the validation images, and how people read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GoalName = Literal["ensemble", "node1", "mean_node", "nll"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a trial's value is."""

    title: str
    """In words, such as ``accuracy of node 1``."""
    short: str
    """In a word or two, such as ``node 1``; empty for the default."""
    maximise: bool = True
    """Whether more is better."""
    unit: str = " %"
    """What follows a number."""
    digits: int = 2
    """Shown after the point."""

    def shown(self, value: float) -> str:
        """A value for people, as ``71.20 %``."""
        return f"{value:.{self.digits}f}{self.unit}"

    def named(self, value: float) -> str:
        """A value with its name where it is not the default's: ``71.20 %``, ``node 1 71.20 %``."""
        return f"{self.short} {self.shown(value)}".strip()

    @property
    def sign(self) -> int:
        """Times a value: what is the higher, the better."""
        return 1 if self.maximise else -1


DEFAULT_GOAL: GoalName = "ensemble"
GOALS: Mapping[str, Goal] = {
    "ensemble": Goal(title="accuracy of the ensemble", short=""),
    "node1": Goal(title="accuracy of node 1", short="node 1"),
    "mean_node": Goal(title="mean accuracy of the nodes", short="mean of the nodes"),
    "nll": Goal(title="negative log-likelihood of the ensemble", short="NLL", maximise=False, unit="", digits=4),
}
"""By the name that ``study.goal`` gives them."""
