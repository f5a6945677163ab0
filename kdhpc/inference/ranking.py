"""What an ensemble and its nodes say of an image: the most probable classes. Free of torch."""

from dataclasses import dataclass
from typing import NamedTuple

TOP = 5
"""Classes of an image, if nobody says otherwise."""


class ClassProbability(NamedTuple):
    """A class, and how probable it is."""

    name: str
    """Name of the class."""
    label: int
    """Its number, from 0."""
    probability: float
    """0 to 1, a float32."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The most probable classes of one image, the most probable first."""

    ensemble: tuple[ClassProbability, ...]
    """By the ensemble."""
    nodes: tuple[tuple[ClassProbability, ...], ...]
    """By each node."""

    @property
    def num_agreeing(self) -> int:
        """Number of nodes whose most probable class is the ensemble's."""
        return sum(node[0].label == self.ensemble[0].label for node in self.nodes)
