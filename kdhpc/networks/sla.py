"""The network of SLA with self-distillation: one that also tells by how much an image was rotated.

Dimension suffixes: N images, R = 4 N rotated images, C classes, J = 4 C joint classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig
from kdhpc.networks.build import Network
from kdhpc.networks.heads import classify
from kdhpc.networks.self_taught import SelfTaughtNetwork, build_student
from kdhpc.networks.stages import plain_head, stage_features

NUM_ROTATIONS = 4
"""By 0, 90, 180 and 270 degrees."""


class SlaOutput(NamedTuple):
    """The logits of both heads for one batch."""

    joint_logits_RJ: Tensor
    """(4 N, 4 C): of every rotated image, for each pair of class c and rotation j, at 4 c + j."""
    single_logits_NC: Tensor
    """(N, C): of the images as they are, by the head that is kept."""


def rotated(images: Tensor) -> Tensor:
    """Each image by 0, 90, 180 and 270 degrees.

    Args:
        images: (N, 3, S, S).

    Returns:
        (4 N, 3, S, S), in the memory format of the images: row 4 n + j is image n, rotated by j quarter turns.
    """
    turns = torch.stack([torch.rot90(images, turn, (2, 3)) for turn in range(NUM_ROTATIONS)], dim=1).flatten(0, 1)
    is_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return turns.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


class SlaNetwork(SelfTaughtNetwork):
    """A plain residual network with a second head, on the same pooled features, for class and rotation together.

    Args:
        student: The network whose own head tells the classes apart.
        num_classes: C.

    Source: Lee et al., "Self-supervised label augmentation via input transformations", ICML 2020; the authors' code,
    https://github.com/hankook/SLA, mode ``sla+sd``.
    """

    def __init__(self, student: Network, num_classes: int) -> None:
        super().__init__(student)
        features = plain_head(student).fc.in_features
        self.joint = nn.Linear(features, NUM_ROTATIONS * num_classes)

    def forward(self, images: Tensor) -> SlaOutput:
        """The output for images (N, 3, S, S), which are rotated here. One forward pass of 4 N images."""
        features = stage_features(self.student, rotated(images))[-1]
        return SlaOutput(
            classify(self.joint, features), classify(plain_head(self.student).fc, features[::NUM_ROTATIONS])
        )


def build_sla(config: NetworkConfig, *, num_classes: int, image_size: int) -> SlaNetwork:
    """Build it with initial weights that are drawn from torch's global random state.

    Args:
        config: A plain residual network.
        num_classes: C.
        image_size: S, in pixels.

    Raises:
        NetworkError: as :func:`kdhpc.networks.self_taught.build_student`.
    """
    student = build_student(config, num_classes=num_classes, image_size=image_size, method="SLA")
    return SlaNetwork(student, num_classes)
