"""Overrides of a whole reproduction: which go to searches, which to trainings."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdhpc.errors import UsageError

_OF_SEARCHES = ("cluster", "worker", "study")
_OF_TRAININGS = ("hydra",)
_CHOSEN = (
    *("dataset", "network", "study", "run"),
    *("study.num_nodes", "study.networks", "study.goal", "study.node1_learns", "study.designs"),
)
"""What the files choose: ``dataset=`` itself, not its keys."""
_TRIALS = "study.trials"


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the user gave, sorted."""

    of_searches: tuple[str, ...] = ()
    """For `kdhpc search`."""
    of_trainings: tuple[str, ...] = ()
    """For `kdhpc train`."""
    trials: int | None = None
    """Trials of each search, in place of the files'; None: theirs."""

    @classmethod
    def of(cls, given: Sequence[str]) -> "Overrides":
        """Sort overrides: those of ``cluster``, ``worker`` and ``study`` are of searches, ``hydra`` of trainings.

        Raises:
            UsageError: one would change what the files choose, or a number of trials is none.
        """
        searches, trainings, trials = list[str](), list[str](), None
        for word in given:
            key, _, value = word.lstrip("+~").partition("=")
            group = key.partition(".")[0]
            if key in _CHOSEN or group == "run":
                raise UsageError(
                    f"{word} is not allowed here, the files in configs/reproduce choose it: change a copy of one, in "
                    "./configs/reproduce"
                )
            if key == _TRIALS:
                trials = _trials(word, value)
                continue
            if group not in _OF_TRAININGS:
                searches.append(word)
            if group not in _OF_SEARCHES:
                trainings.append(word)
        return cls(of_searches=tuple(searches), of_trainings=tuple(trainings), trials=trials)


def _trials(word: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{word} is not allowed: {_TRIALS} is a number, 1 or more")
    return int(value)
