"""The network of FRSKD: a residual network and a self-teacher, which refines the features of all of its stages.

Source: Ji et al., "Refine myself by teaching myself: feature refinement via self-knowledge distillation", CVPR 2021;
the authors' code, https://github.com/MingiJi/FRSKD, ``classification/models/bifpnc.py``. Where paper and code differ,
this is the code: nearest upsampling, and lateral layers of their own for the second pass.

Dimension suffixes: N samples, C classes, D channels, H, W rows and columns.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig
from kdhpc.networks.build import Network
from kdhpc.networks.heads import attention_transfer_map, classify
from kdhpc.networks.self_taught import SelfTaughtNetwork, build_student
from kdhpc.networks.stages import plain_head, stage_channels, stage_features

WIDTH = 2
"""How many times as many channels the self-teacher has, at each level, as the network's stage."""
DEPTH = 2
"""Depthwise separable convolutions in a block."""


class FrskdOutput(NamedTuple):
    """What the network and its self-teacher say to one batch."""

    student_logits_NC: Tensor
    """(N, C), of the network that is kept."""
    teacher_logits_NC: Tensor
    """(N, C), of the self-teacher."""
    student_maps: tuple[Tensor, ...]
    """(N, H_i, W_i), float32: the mean over channels of the squared features of each stage, after its ReLU."""
    teacher_maps: tuple[Tensor, ...]
    """The same of the self-teacher's features, at as many levels of the same sizes."""


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def _block(channels: int) -> nn.Sequential:
    """Depthwise separable convolutions. Whoever uses the result applies the last ReLU."""
    layers: list[nn.Module] = []
    for index in range(DEPTH):
        layers += [
            *([nn.ReLU(inplace=True)] if index else []),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
    return nn.Sequential(*layers)


def pool_same(features: Tensor) -> Tensor:
    """Maximum pooling 3x3 of stride 2, zero-padded so that H becomes H / 2, rounded up.

    An even side is padded on the right or at the bottom alone, as TensorFlow's ``SAME`` does.
    """
    left, right, top, bottom = (part for side in (features.shape[3], features.shape[2]) for part in ((side % 2), 1))
    return F.max_pool2d(F.pad(features, (left, right, top, bottom)), 3, stride=2)


class Fusion(nn.Module):
    """A weighted mean of feature maps of one shape: w = relu(v) / (sum relu(v) + 1e-6), where v learns, from 1 on.

    Args:
        num_inputs: How many maps.
    """

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_inputs))

    def forward(self, *features: Tensor) -> Tensor:
        """(N, D, H, W), as each of the inputs."""
        positive = F.relu(self.weight)
        shares = (positive / (positive.sum() + 1e-6)).unbind()
        total = shares[0] * features[0]
        for share, one in zip(shares[1:], features[1:], strict=True):
            total = total + share * one
        return total


class SelfTeacher(nn.Module):
    """A feature pyramid on the stages of a network, once from the top down and once from the bottom up.

    With L_i and M_i projections of the features F_i of stage i = 1 .. n, and B a block:

    - P_n = L_n; P_i = B(fuse(L_i, project(upsample(relu P_{i+1}))));
    - T_1 = P_1; T_i = B(fuse(M_i, relu P_i, project(pool(relu T_{i-1})))), of which T_n has no P_n.

    The logits are a linear function of the mean of relu T_n over all pixels.

    Args:
        channels: Number of channels of each stage, from the first to the last; 2 stages or more.
        num_classes: C.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        wide = [WIDTH * one for one in channels]
        pairs = list(itertools.pairwise(wide))
        self.lateral = nn.ModuleList(map(_project, channels, wide))
        self.lateral_again = nn.ModuleList(map(_project, channels[1:], wide[1:]))
        self.down = nn.ModuleList(_project(above, below) for below, above in pairs)
        self.down_fusion = nn.ModuleList(Fusion(2) for _ in pairs)
        self.down_block = nn.ModuleList(map(_block, wide[:-1]))
        self.up = nn.ModuleList(_project(below, above) for below, above in pairs)
        self.up_fusion = nn.ModuleList(Fusion(3 if index < len(pairs) - 1 else 2) for index in range(len(pairs)))
        self.up_block = nn.ModuleList(map(_block, wide[1:]))
        self.fc = nn.Linear(wide[-1], num_classes)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """From the stages' features to relu T_i of each level, (N, 2 D_i, H_i, W_i), and to the logits, (N, C)."""
        refined = [lateral(one) for lateral, one in zip(self.lateral, features, strict=True)]
        for i in reversed(range(len(refined) - 1)):
            # As a factor of 2 where the sides are even; else to the size of the stage.
            above = F.interpolate(F.relu(refined[i + 1]), size=refined[i].shape[2:], mode="nearest")
            refined[i] = self.down_block[i](self.down_fusion[i](refined[i], self.down[i](above)))
        levels = [F.relu(refined[0])]
        for i, lateral in enumerate(self.lateral_again):
            middle = [F.relu(refined[i + 1])] if i < len(self.lateral_again) - 1 else []
            fused = self.up_fusion[i](lateral(features[i + 1]), *middle, self.up[i](pool_same(levels[-1])))
            levels.append(F.relu(self.up_block[i](fused)))
        return tuple(levels), classify(self.fc, levels[-1])


class FrskdNetwork(SelfTaughtNetwork):
    """A plain residual network and its self-teacher, which are trained together.

    The network's features enter the self-teacher with their gradients: what that learns from the labels also trains
    the network.

    Args:
        student: The network.
        channels: Of its stages.
        num_classes: C.
    """

    def __init__(self, student: Network, channels: Sequence[int], num_classes: int) -> None:
        super().__init__(student)
        self.teacher = SelfTeacher(channels, num_classes)

    def forward(self, images: Tensor) -> FrskdOutput:
        """The output for images (N, 3, S, S)."""
        features = stage_features(self.student, images)
        levels, teacher_logits = self.teacher(features)
        return FrskdOutput(
            classify(plain_head(self.student).fc, features[-1]),
            teacher_logits,
            tuple(map(attention_transfer_map, features)),
            tuple(map(attention_transfer_map, levels)),
        )


def build_frskd(config: NetworkConfig, *, num_classes: int, image_size: int) -> FrskdNetwork:
    """Build it with initial weights that are drawn from torch's global random state.

    The self-teacher has torch's own initial weights, the network those of every network here.

    Args:
        config: A plain residual network.
        num_classes: C.
        image_size: S, in pixels.

    Raises:
        NetworkError: as :func:`kdhpc.networks.self_taught.build_student`.
    """
    student = build_student(config, num_classes=num_classes, image_size=image_size, method="FRSKD")
    return FrskdNetwork(student, stage_channels(student, image_size), num_classes)
