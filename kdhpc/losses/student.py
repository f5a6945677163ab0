"""The objective of a student, which learns from the labels and from the predictions of a trained ensemble.

Dimension suffixes: N samples, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.precision import at_least_float32


def student_loss(
    logits_NC: Tensor,
    extra_logits_NC: tuple[Tensor, ...],
    teacher_logits_NC: Tensor,
    labels_N: Tensor,
    temperature: float,
    distillation_weight: float | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """CE(student) + T^2 KL(softmax(teacher / T) || softmax(student / T)), each averaged over N.

    With a weight w it is (1 - w) CE + w T^2 KL. CE is the cross-entropy with the labels. The teacher is detached.
    Computed in float32 or float64, whatever precision the networks ran in.

    Args:
        logits_NC: (N, C) logits of the student.
        extra_logits_NC: (N, C) each: logits of further classifiers of the student, which are added to the label loss
            with weight 1.
        teacher_logits_NC: (N, C) logits of the teacher: the mean over its nodes.
        labels_N: (N,) class indices, 0 to C - 1.
        temperature: T, above 0.
        distillation_weight: w, 0 to 1; None: the sum of both, which is twice that with w = 1/2.
        label_smoothing: 0 to below 1: share of CE's target that is spread evenly over the C classes.

    Returns:
        A scalar.

    Source: Hinton et al., "Distilling the knowledge in a neural network", section 2, which weights both; paper section
    5.5, which gives neither the loss nor T.
    """
    logits_NC = at_least_float32(logits_NC)
    hard = F.cross_entropy(logits_NC, labels_N, label_smoothing=label_smoothing)
    for extra_NC in extra_logits_NC:
        hard = hard + F.cross_entropy(at_least_float32(extra_NC), labels_N, label_smoothing=label_smoothing)
    teacher_log_NC = F.log_softmax(at_least_float32(teacher_logits_NC.detach()) / temperature, dim=1)
    student_log_NC = F.log_softmax(logits_NC / temperature, dim=1)
    soft = F.kl_div(student_log_NC, teacher_log_NC, reduction="batchmean", log_target=True)
    if distillation_weight is None:
        return hard + temperature**2 * soft
    return (1 - distillation_weight) * hard + distillation_weight * temperature**2 * soft
