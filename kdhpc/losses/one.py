"""The objective of ONE, a baseline.

The branches and their gated ensemble learn from the labels. The branches also learn from the ensemble.

Dimension suffixes: B branches, N samples, C classes.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.precision import at_least_float32

TEMPERATURE = 3.0
"""T, which divides the logits of both sides of the distillation."""
RAMP_EPOCHS = 80
"""Number of epochs after which the distillation has its full weight."""


def ramp_up(epoch: int) -> float:
    """The weight of the distillation: exp(-5 (1 - e/80)^2), and 1 from e = 80 on.

    Args:
        epoch: Number of the epoch, from 1. The formula's e is the number of epochs before it, so that the first epoch
            has the weight exp(-5), as in ONE's code.

    Returns:
        exp(-5) to 1.

    Source: Lan et al., "Knowledge distillation by on-the-fly native ensemble" (paper reference 16).
    """
    progress = min((epoch - 1) / RAMP_EPOCHS, 1.0)
    return math.exp(-5 * (1 - progress) ** 2)


def one_loss(
    branch_logits_BNC: Tensor,
    ensemble_logits_NC: Tensor,
    extra_logits_BNC: tuple[Tensor, ...],
    labels_N: Tensor,
    ramp: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """sum_b CE(b) + CE(ensemble) + ramp T^2 sum_b KL(ensemble || b), each averaged over N.

    CE is the cross-entropy with the labels; KL is computed at the temperature T = 3. The ensemble is detached in the KL
    term. Computed in float32 or float64, whatever precision the network ran in.

    Args:
        branch_logits_BNC: (B, N, C) logits of the branches.
        ensemble_logits_NC: (N, C) logits of the gated ensemble.
        extra_logits_BNC: (B, N, C) each: logits of further classifiers of the branches, which are added to the label
            loss with weight 1.
        labels_N: (N,) class indices, 0 to C - 1.
        ramp: The weight of the distillation, a scalar tensor; see `ramp_up`.
        label_smoothing: 0 to below 1: share of CE's target that is spread evenly over the C classes.

    Returns:
        A scalar.

    Source: Lan et al., Eq. 4-8 (paper reference 16).
    """
    branch_logits_BNC, ensemble_logits_NC = at_least_float32(branch_logits_BNC), at_least_float32(ensemble_logits_NC)
    num_branches = branch_logits_BNC.shape[0]
    labels_BN = labels_N.repeat(num_branches)
    hard = F.cross_entropy(ensemble_logits_NC, labels_N, label_smoothing=label_smoothing)
    for logits_BNC in (branch_logits_BNC, *extra_logits_BNC):
        logits = at_least_float32(logits_BNC).flatten(0, 1)
        hard = hard + num_branches * F.cross_entropy(logits, labels_BN, label_smoothing=label_smoothing)
    teacher_log_NC = F.log_softmax(ensemble_logits_NC.detach() / TEMPERATURE, dim=1)
    student_log_BNC = F.log_softmax(branch_logits_BNC / TEMPERATURE, dim=2)
    soft_BNC = teacher_log_NC.exp() * (teacher_log_NC - student_log_BNC)
    return hard + ramp * TEMPERATURE**2 * soft_BNC.sum(dim=(0, 2)).mean()
