"""For all pairs of some networks: how much the two differ, and what their ensemble gains.

Dimension suffixes: M networks, P = M (M - 1) / 2 pairs, n images of one chunk, C classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.data.progress import Progress
from kdhpc.report.correlation import Pairs
from kdhpc.report.predictions import Predictions
from kdhpc.words import counted

_CHUNK_BYTES = 1 << 26


def compare_pairs(predictions: Predictions, device: torch.device, progress: Progress) -> Pairs:
    """Measure every pair of networks, each pair once.

    Args:
        predictions: Logits of all networks, and the labels.
        device: Where to compute.
        progress: Counts images.

    Source: paper Eq. 1-2.
    """
    num_networks, num_images, num_classes = predictions.logits_MNC.shape
    rows, columns = np.triu_indices(num_networks, k=1)
    cross_MM = torch.zeros(num_networks, num_networks, dtype=torch.float64, device=device)
    right_MM = torch.zeros(num_networks, num_networks, dtype=torch.int64, device=device)
    size = max(1, _CHUNK_BYTES // (8 * num_networks * num_classes))
    progress.start(f"{counted(len(rows), 'pair')} on {counted(num_images, 'image')}", num_images)
    for start in range(0, num_images, size):
        logits_MnC = predictions.logits_MNC[:, start : start + size].to(device)
        labels_n = predictions.labels_N[start : start + size].to(device)
        cross_MM += _cross_entropies(logits_MnC)
        right_MM += _num_correct(logits_MnC, labels_n)
        progress.advance(len(labels_n))
    mutual_kl_MM = _mutual_kl(cross_MM / num_images).cpu().numpy()
    accuracies_MM: NDArray[np.float64] = right_MM.cpu().numpy() * (100 / num_images)
    return Pairs(
        networks=predictions.networks,
        accuracies=np.diagonal(accuracies_MM).copy(),
        first=rows,
        second=columns,
        mutual_kl=mutual_kl_MM[rows, columns],
        ensemble_accuracies=accuracies_MM[rows, columns],
        num_images=num_images,
    )


def _cross_entropies(logits_MnC: Tensor) -> Tensor:
    """Sum over images and classes of -p_i log p_j, (M, M) [i, j], as one product of matrices.

    In float64: networks may differ by much less than their entropies, which are subtracted.
    """
    log_p = torch.log_softmax(logits_MnC.double(), dim=2).flatten(1)
    return -(log_p.exp() @ log_p.T)


def _mutual_kl(cross_MM: Tensor) -> Tensor:
    """Mutual KL (M, M) from mean cross-entropies H, as KL(p_i || p_j) = H_ij - H_ii. Source: paper Eq. 1 at T = 1."""
    kl_MM = cross_MM - cross_MM.diagonal().unsqueeze(1)
    return ((kl_MM + kl_MM.T) / 2).clamp(min=0)


def _num_correct(logits_MnC: Tensor, labels_n: Tensor) -> Tensor:
    """Numbers of correct predictions, (M, M): of ensembles of two above the diagonal, of single networks on it.

    The sum of two networks' logits has its maximum where their mean has it.
    """
    num_networks = len(logits_MnC)
    right_MM = torch.zeros(num_networks, num_networks, dtype=torch.int64, device=logits_MnC.device)
    for first in range(num_networks):
        sums = logits_MnC[first] + logits_MnC[first:]
        right_MM[first, first:] = (sums.argmax(dim=2) == labels_n).sum(dim=1)
    return right_MM
