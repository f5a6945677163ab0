"""Attention examples: images with the attention map and the prediction of each node of a run. Free of torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class NodePrediction:
    """What a node, or the ensemble, predicts for one image."""

    predicted: str
    """Name of the most probable class."""
    correct: bool
    """Whether that is the image's class."""
    entropy: float
    """Entropy of the predicted class probabilities, in nats."""


@dataclass(frozen=True, kw_only=True)
class AttentionExample:
    """One image with the attention maps and the predictions of all nodes."""

    index: int
    """Number of the image among those that the run is scored on, from 0."""
    label: str
    """Name of its class."""
    image: NDArray[np.float32]
    """(S, S, 3), values from 0 to 1."""
    maps: tuple[NDArray[np.float32], ...]
    """The attention map of each node: (H, W), 0 or more."""
    nodes: tuple[NodePrediction, ...]
    """The prediction of each node."""
    ensemble: NodePrediction
    """The prediction of the ensemble: from the mean of the nodes' logits."""


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Measures of a node, or of the ensemble, over all images that the run is scored on."""

    accuracy: float
    """Top-1, in percent."""
    entropy: float
    """Entropy of the predicted class probabilities, in nats: the mean over the images."""


@dataclass(frozen=True, kw_only=True)
class AttentionExamples:
    """The attention examples of a run, with measures over all of its images."""

    name: str
    """Name of the run."""
    num_images: int
    """Number of images that the run is scored on."""
    scored_on: str
    """Which images those are: ``test`` or ``validation``."""
    nodes: tuple[Overall, ...]
    """The measures of each node."""
    ensemble: Overall
    """The measures of the ensemble."""
    examples: tuple[AttentionExample, ...]
    """The chosen images."""
    networks: tuple[str, ...] = ()
    """Name of each node's network, where they differ; else empty."""
