"""What the class probabilities of a run are worth, beside their accuracy: numbers of a result. Free of torch.

p is the softmax of a network's logits, or of the ensemble's (the mean of the nodes' logits). Each number is a mean over
the scored images:

- NLL: -log p of the label, in nats.
- Brier: the sum over the classes of (p - 1 if it is the label, else p)^2, from 0 to 2.
- ECE: the expected calibration error. Images fall into 15 bins of equal width by their largest p; the difference of a
  bin's accuracy and its mean largest p is averaged over the bins, weighted by their images. From 0 to 1.
- Disagreement: the share of images for which two nodes predict different classes, the mean over all pairs. 0 to 1.
- Mutual KL: KL(p_s || p_t) in nats, the mean over all ordered pairs of nodes s and t.
- AUROC: how well the largest p tells the scored images from those of a second data set: the chance that an image of the
  first has the larger one (equal ones count half). 0.5 means not at all, 1 always.

Source: Brier, "Verification of forecasts", 1950, for several classes; Guo et al., "On calibration of modern neural
networks", ICML 2017; Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples",
ICLR 2017; for the mutual KL the paper's Eq. 1.
"""

import math
from dataclasses import dataclass

ECE_BINS = 15
"""Bins of the largest probability."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one node, or of the ensemble."""

    nll: float
    """Mean negative log-likelihood of the labels, in nats."""
    brier: float
    """Mean Brier score, 0 to 2."""
    ece: float
    """Expected calibration error, 0 to 1."""

    def __post_init__(self) -> None:
        _check_finite(self.nll, self.brier, self.ece)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well the scored images are told from the test images of a second data set."""

    dataset: str
    """Name of the second packed data set."""
    checksum: str
    """Of its content."""
    nodes: tuple[float, ...]
    """AUROC of each node, 0 to 1."""
    ensemble: float
    """AUROC of the ensemble, 0 to 1."""

    def __post_init__(self) -> None:
        _check_finite(*self.nodes, self.ensemble)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one run, on the images that its accuracies are of."""

    nodes: tuple[Quality, ...]
    """Of each node."""
    ensemble: Quality
    """Of the ensemble."""
    disagreement: float | None
    """Mean over the pairs of nodes, 0 to 1; None: a single node has no pair."""
    mutual_kl: float | None
    """Mean over the ordered pairs of nodes, in nats; None: a single node has no pair."""
    ood: tuple[Detection, ...] = ()
    """Against each second data set that it was evaluated with."""

    def __post_init__(self) -> None:
        _check_finite(*(value for value in (self.disagreement, self.mutual_kl) if value is not None))


def _check_finite(*values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"scores {values} are not finite")
