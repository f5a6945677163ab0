"""The objective of SLA with self-distillation.

Dimension suffixes: N images, R = 4 N rotated images, C classes, J = 4 C joint classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.precision import at_least_float32


def sla_loss(
    joint_logits_RJ: Tensor,
    single_logits_NC: Tensor,
    labels_N: Tensor,
    temperature: float,
    joint_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """w CE(joint) + CE(single) + T^2 KL(softmax(A / T) || softmax(single / T)), each averaged over its rows.

    CE(joint) is over all rotated images, with class and rotation as one label. A is the mean over the rotations j of
    the joint logits of (class, j) that the image rotated by j has; it is detached. Computed in float32 or float64,
    whatever precision the networks ran in.

    Args:
        joint_logits_RJ: (4 N, 4 C): row 4 n + j is of image n by j quarter turns, column 4 c + j of class c and j.
        single_logits_NC: (N, C), of the images as they are.
        labels_N: (N,) class indices, 0 to C - 1.
        temperature: T, above 0; the authors' is 1.
        joint_weight: w, 1; 4 with the authors' ``--with-large-loss``.
        label_smoothing: 0 to below 1: share of each target that is spread evenly over the classes.

    Returns:
        A scalar.

    Source: Lee et al., "Self-supervised label augmentation via input transformations", ICML 2020, section 3, as in the
    authors' code, https://github.com/hankook/SLA (``create_sla_sd_trainer``). The paper's weight of CE(single) is 1
    there.
    """
    joint_logits_RJ, single_logits_NC = at_least_float32(joint_logits_RJ), at_least_float32(single_logits_NC)
    num_images, num_classes = single_logits_NC.shape
    num_rotations = len(joint_logits_RJ) // num_images
    rotations = torch.arange(num_rotations, device=labels_N.device)
    joint_labels_R = (labels_N.unsqueeze(1) * num_rotations + rotations).flatten()
    joint = F.cross_entropy(joint_logits_RJ, joint_labels_R, label_smoothing=label_smoothing)
    single = F.cross_entropy(single_logits_NC, labels_N, label_smoothing=label_smoothing)
    # [image, rotated by, class, rotation that is told]: where both rotations are the same.
    told = joint_logits_RJ.detach().view(num_images, num_rotations, num_classes, num_rotations)
    aggregated_NC = told.diagonal(dim1=1, dim2=3).mean(dim=2)
    soft = F.kl_div(
        F.log_softmax(single_logits_NC / temperature, dim=1),
        F.log_softmax(aggregated_NC / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return joint_weight * joint + single + temperature**2 * soft
