"""What the nodes of a run see in some images, and answer. Free of torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One answer to one image."""

    answer: str
    """Name of the most probable class."""
    right: bool
    """Whether it is the image's."""
    entropy: float
    """Of the probability distribution, in nats."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One image."""

    index: int
    """Counted from 0 among the scored images."""
    label: str
    """Name of its class."""
    image: NDArray[np.float32]
    """(S, S, 3), 0 to 1."""
    maps: tuple[NDArray[np.float32], ...]
    """(H, W) each: the attention map of each node, not negative."""
    nodes: tuple[Verdict, ...]
    """Of each node."""
    ensemble: Verdict
    """Of the mean of their logits."""


@dataclass(frozen=True, kw_only=True)
class Overall:
    """All scored images together."""

    accuracy: float
    """Top-1, in percent."""
    entropy: float
    """Mean of the entropy of the probability distribution, in nats."""


@dataclass(frozen=True, kw_only=True)
class Sights:
    """Some images, and what all scored images say of each node."""

    name: str
    """Of the run."""
    num_images: int
    """Scored images."""
    scored_on: str
    """``test`` or ``validation``."""
    nodes: tuple[Overall, ...]
    """Of each node."""
    ensemble: Overall
    """Of the mean of their logits."""
    sights: tuple[Sight, ...]
    """The chosen images."""
