"""The objective of FRSKD, for a network and its self-teacher together.

Dimension suffixes: N samples, C classes, H, W rows and columns, P = H W pixels.
"""

import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.precision import at_least_float32

TEMPERATURE = 4.0
"""T, which divides the logits of both sides of the distillation."""


def frskd_loss(
    student_logits_NC: Tensor,
    teacher_logits_NC: Tensor,
    student_maps: tuple[Tensor, ...],
    teacher_maps: tuple[Tensor, ...],
    labels_N: Tensor,
    alpha: float,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """CE(s) + CE(t) + alpha T^2 KL(softmax(t / T) || softmax(s / T)) + beta sum_i AT_i.

    s is the network, t its self-teacher, T = 4. CE and KL are averaged over N. AT_i is the mean over N and H W of
    (phi(F_i) - phi(T_i))^2, where phi divides the map of each image by its L2 norm. t and T_i are detached in KL and
    AT. Computed in float32 or float64, whatever precision the networks ran in.

    Args:
        student_logits_NC: (N, C).
        teacher_logits_NC: (N, C).
        student_maps: (N, H_i, W_i) each: mean over channels of the squared features.
        teacher_maps: The same of the self-teacher, of the same shapes.
        labels_N: (N,) class indices, 0 to C - 1.
        alpha: Weight of KL, 0 or more.
        beta: Weight of AT, 0 or more.
        label_smoothing: 0 to below 1: share of each target that is spread evenly over the classes.

    Returns:
        A scalar.

    Source: Ji et al., "Refine myself by teaching myself", CVPR 2021, Eq. 3-6, as in the authors' code,
    https://github.com/MingiJi/FRSKD: where the paper has another KL and norm, alpha and beta are the code's.
    """
    student_logits_NC, teacher_logits_NC = at_least_float32(student_logits_NC), at_least_float32(teacher_logits_NC)
    both = (student_logits_NC, teacher_logits_NC)
    hard = sum(F.cross_entropy(logits_NC, labels_N, label_smoothing=label_smoothing) for logits_NC in both)
    soft = F.kl_div(
        F.log_softmax(student_logits_NC / TEMPERATURE, dim=1),
        F.log_softmax(teacher_logits_NC.detach() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    loss = hard + alpha * TEMPERATURE**2 * soft
    for ours, theirs in zip(student_maps, teacher_maps, strict=True):
        difference_NP = _direction(ours) - _direction(theirs.detach())
        loss = loss + beta * (difference_NP * difference_NP).mean()
    return loss


def _direction(map_NHW: Tensor) -> Tensor:
    """(N, P): each image's map, divided by its L2 norm."""
    return F.normalize(at_least_float32(map_NHW).flatten(1))
