"""Top-1 accuracy of nodes and of their ensemble, and the ensemble's likelihood."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kdhpc.training.batches import EvalSource


class Prediction(NamedTuple):
    """Logits for one batch."""

    node_logits_MNC: Tensor
    """(M, N, C)."""
    ensemble_logits_NC: Tensor
    """(N, C)."""


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Top-1, in percent."""

    nodes: tuple[float, ...]
    """Of each node alone."""
    ensemble: float
    """Of the ensemble."""
    ensemble_nll: float
    """Mean negative log-likelihood of the labels under the softmax of the ensemble's logits, in nats."""


@dataclass(frozen=True, kw_only=True)
class NotFinite:
    """There is no accuracy: some logits are not finite, which is no prediction."""

    nodes: tuple[int, ...]
    """0-based, those that gave them; empty: their ensemble alone."""


def mean_ensemble(node_logits_MNC: Tensor) -> Prediction:
    """The ensemble node: the mean of the nodes' logits, in float32. Source: paper Eq. 12."""
    node_logits_MNC = node_logits_MNC.float()
    return Prediction(node_logits_MNC, node_logits_MNC.mean(dim=0))


@torch.no_grad()
def predictions(predict: Callable[[Tensor], Prediction], source: EvalSource) -> Iterator[tuple[Prediction, Tensor]]:
    """Yield the logits of each batch, and its labels, (N,).

    Args:
        predict: As for `top1_accuracies`.
        source: Images and labels.
    """
    template: Tensor | None = None
    for batch in source:
        num_samples = len(batch.labels)
        template = batch.images if template is None else template
        nodes, ensemble = predict(_filled_up(batch.images, template))
        yield Prediction(nodes[:, :num_samples], ensemble[:num_samples]), batch.labels


@torch.no_grad()
def top1_accuracies(predict: Callable[[Tensor], Prediction], source: EvalSource) -> Accuracies | NotFinite:
    """Count right predictions, and look for logits that are none, on the device; the host waits once, at the end.

    Log-likelihoods are computed and summed in float64, in the same pass.

    Args:
        predict: From images (N, 3, S, S) of one N: a smaller last batch is filled up with zeros, whose
            predictions are dropped, so that a compiled network needs no second program. Networks are in evaluation
            mode.
        source: Images and labels.
    """
    counted_2_M1: Tensor | None = None  # Right predictions, and images without any; the ensemble last.
    nll: Tensor | None = None
    num_images = 0
    for prediction, labels in predictions(predict, source):
        logits = torch.cat([prediction.node_logits_MNC, prediction.ensemble_logits_NC.unsqueeze(0)])
        is_right = logits.argmax(dim=2) == labels
        is_none = ~logits.isfinite().all(dim=2)
        counts = torch.stack([is_right, is_none]).sum(dim=2)
        counted_2_M1 = counts if counted_2_M1 is None else counted_2_M1 + counts
        log_likelihood = logits[-1].double().log_softmax(dim=1).gather(1, labels.long().unsqueeze(1)).sum()
        nll = -log_likelihood if nll is None else nll - log_likelihood
        num_images += len(labels)
    assert counted_2_M1 is not None, "an EvalSource has at least one image"
    assert nll is not None, "as above"
    # Whole numbers stay exact in float64.
    *numbers, nll_sum = torch.cat([counted_2_M1.double().flatten(), nll.reshape(1)]).tolist()
    right, none = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    if any(none):
        return NotFinite(nodes=tuple(index for index, count in enumerate(none[:-1]) if count))
    *nodes, ensemble = (100 * count / num_images for count in right)
    return Accuracies(nodes=tuple(nodes), ensemble=ensemble, ensemble_nll=nll_sum / num_images)


def _filled_up(images: Tensor, template: Tensor) -> Tensor:
    if images.shape == template.shape:
        return images
    filled = torch.zeros_like(template)
    filled[: len(images)] = images
    return filled
