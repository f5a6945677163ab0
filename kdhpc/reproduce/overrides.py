"""Overrides of a whole reproduction: which go to searches, which to trainings."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdhpc.errors import UsageError

_OF_SEARCHES = ("cluster", "worker", "study")
_OF_TRAININGS = ("hydra",)
_CHOSEN = ("dataset", "network", "study", "run")
"""What the files choose: ``dataset=`` itself, not its keys."""


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the user gave, sorted."""

    of_searches: tuple[str, ...] = ()
    """For `kdhpc search`."""
    of_trainings: tuple[str, ...] = ()
    """For `kdhpc train`."""

    @classmethod
    def of(cls, given: Sequence[str]) -> "Overrides":
        """Sort overrides: those of ``cluster``, ``worker`` and ``study`` are of searches, ``hydra`` of trainings.

        Raises:
            UsageError: one would change what the files choose.
        """
        searches, trainings = list[str](), list[str]()
        for word in given:
            key = word.lstrip("+").partition("=")[0]
            group = key.partition(".")[0]
            if key in _CHOSEN or group == "run":
                raise UsageError(
                    f"{word} is not allowed here, the files in configs/reproduce choose it: change a copy of one, in "
                    "./configs/reproduce"
                )
            if group not in _OF_TRAININGS:
                searches.append(word)
            if group not in _OF_SEARCHES:
                trainings.append(word)
        return cls(of_searches=tuple(searches), of_trainings=tuple(trainings))
