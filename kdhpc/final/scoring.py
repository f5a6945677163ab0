"""Scores of predictions, added up batch by batch in float64 on the device. What they mean: `kdhpc.final.scores`.

Only AUROC comes from torchmetrics, and is wanted by commands that evaluate again. The others are wanted at the end of
every training, where importing torchmetrics would cost seconds, and would import Matplotlib, SciPy and torchvision's
models, whatever their environment does to them. Its ECE also puts a largest probability of exactly 1 into a sixteenth
bin. Tests compare these numbers with torchmetrics' all the same.

Dimension suffixes: M nodes, K = M + 1 with the ensemble last, N images, C classes, B bins.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from kdhpc.final.scores import ECE_BINS, Quality, Scores
from kdhpc.training.evaluation import Prediction


class ScoreSums:
    """Sums over all images so far.

    Args:
        num_nodes: M.
        device: Where predictions are.
    """

    def __init__(self, num_nodes: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        num_all = num_nodes + 1
        self._num_images = 0
        self._not_finite_K, self._right_K = zeros(num_all), zeros(num_all)
        self._nll_K, self._brier_K = zeros(num_all), zeros(num_all)
        # Right predictions less largest probabilities: the difference of a bin, times its images.
        self._gap_KB = zeros(num_all, ECE_BINS)
        self._differ_MM, self._kl_MM = zeros(num_nodes, num_nodes), zeros(num_nodes, num_nodes)

    @torch.no_grad()
    def add(self, prediction: Prediction, labels_N: Tensor) -> None:
        """Count a batch. Nothing waits for the host."""
        logits_KNC = _all_logits(prediction)
        self._not_finite_K += (~logits_KNC.isfinite().all(dim=2)).sum(dim=1)
        log_p_KNC = logits_KNC.log_softmax(dim=2)
        p_KNC = log_p_KNC.exp()
        label_KN1 = labels_N.long().expand(len(p_KNC), -1).unsqueeze(2)
        self._nll_K -= log_p_KNC.gather(2, label_KN1).sum(dim=(1, 2))
        errors_KNC = p_KNC.scatter_add(2, label_KN1, torch.full_like(label_KN1, -1, dtype=p_KNC.dtype))
        self._brier_K += errors_KNC.square().sum(dim=(1, 2))
        confidence_KN, predicted_KN = p_KNC.max(dim=2)
        is_right_KN = predicted_KN == labels_N
        self._right_K += is_right_KN.sum(dim=1)
        # Bins are closed above: (0, 1/15], ..., (14/15, 1].
        edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=p_KNC.device)
        bin_KN = (torch.bucketize(confidence_KN, edges) - 1).clamp(0, ECE_BINS - 1)
        self._gap_KB.scatter_add_(1, bin_KN, is_right_KN.double() - confidence_KN)
        nodes_MN, log_p_MNC = predicted_KN[:-1], log_p_KNC[:-1]
        for source in range(len(nodes_MN)):  # One at a time: no tensor of all pairs.
            self._differ_MM[source] += (nodes_MN[source] != nodes_MN).sum(dim=1)
            self._kl_MM[source] += (p_KNC[source] * (log_p_MNC[source] - log_p_MNC)).sum(dim=(1, 2))
        self._num_images += len(labels_N)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Top-1 of each node, then of the ensemble, in percent."""
        return tuple((100 * self._right_K / self._num_images).tolist())

    def scores(self) -> Scores | None:
        """The means; None: some logits are not finite, which is no prediction."""
        if self._not_finite_K.any():
            return None
        num_images = self._num_images
        ece_K = self._gap_KB.abs().sum(dim=1)
        rows = (torch.stack([self._nll_K, self._brier_K, ece_K], dim=1) / num_images).tolist()
        # Rounding may leave what cannot be negative a little below 0.
        *nodes, ensemble = (Quality(nll=max(0.0, nll), brier=brier, ece=ece) for nll, brier, ece in rows)
        num_all = len(nodes) * (len(nodes) - 1) * num_images
        return Scores(
            nodes=tuple(nodes),
            ensemble=ensemble,
            disagreement=float(self._differ_MM.sum()) / num_all if num_all else None,
            mutual_kl=max(0.0, float(self._kl_MM.sum()) / num_all) if num_all else None,
        )


def score(predictions: Iterable[tuple[Prediction, Tensor]]) -> Scores | None:
    """Score all batches of some predictions.

    Args:
        predictions: For each batch the logits, and the labels, int64 (N,); at least one image in all.

    Returns:
        None: some logits are not finite, which is no prediction.
    """
    return add_up(predictions).scores()


def add_up(predictions: Iterable[tuple[Prediction, Tensor]]) -> ScoreSums:
    """The sums over all batches of some predictions, as for `score`."""
    sums: ScoreSums | None = None
    for prediction, labels_N in predictions:
        if sums is None:
            sums = ScoreSums(len(prediction.node_logits_MNC), prediction.node_logits_MNC.device)
        sums.add(prediction, labels_N)
    assert sums is not None, "at least one image"
    return sums


def confidences(prediction: Prediction) -> Tensor:
    """The largest probabilities of a batch, float64 (K, N), on the CPU: of each node, then of the ensemble."""
    return _all_logits(prediction).softmax(dim=2).amax(dim=2).cpu()


def auroc(images_N: Tensor, others_N: Tensor) -> float:
    """AUROC of telling images from others by their largest probability.

    Args:
        images_N: float64, of the images; at least one.
        others_N: float64, of those of a second data set; at least one.

    Returns:
        From 0 to 1; 0.5 if both are the same.
    """
    # torchmetrics imports Matplotlib, which only this import does whatever the user has set for it.
    import kdhpc.graph.figure  # noqa: F401

    # isort: split
    from torchmetrics.functional.classification import binary_auroc

    is_image = torch.cat([torch.ones_like(images_N), torch.zeros_like(others_N)]).long()
    return float(binary_auroc(torch.cat([images_N, others_N]), is_image))


def _all_logits(prediction: Prediction) -> Tensor:
    """(K, N, C), float64."""
    return torch.cat([prediction.node_logits_MNC, prediction.ensemble_logits_NC.unsqueeze(0)]).double()
