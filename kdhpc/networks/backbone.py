"""The parts that both families of residual networks are made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A residual network without its classifier, cut in two before its last stage.

    At the cut, attention branch networks weight the features, and the network of ONE splits into branches.
    """

    lower: nn.Module
    """All layers before the last stage: from images (N, 3, H, W) to features (N, lower_channels, H', W')."""
    lower_channels: int
    """Number of channels of the features that enter the last stage."""
    last_stage: Callable[[int], nn.Module]
    """Builds a last stage with a given stride. The network itself has one with stride 2."""
    channels: int
    """Number of channels that the last stage puts out."""


class SubsampleAndPad(nn.Module):
    """A shortcut without parameters: it takes every ``stride``-th pixel, and fills the new channels with zeros.

    Source: He et al., "Deep residual learning for image recognition", section 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self._padding = (0, 0, 0, 0, before, out_channels - in_channels - before)
        self._stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """From (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride), rounded up."""
        return F.pad(features[:, :, :: self._stride, :: self._stride], self._padding)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A shortcut with weights: a 1x1 convolution and batch norm.

    Source: He et al., "Deep residual learning for image recognition", section 3.3, option B.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def make_stage(
    block: type[BasicBlock] | type[Bottleneck],
    *,
    in_channels: int,
    planes: int,
    num_blocks: int,
    stride: int,
    shortcut: Callable[[int, int, int], nn.Module] = projection,
) -> nn.Sequential:
    """A stage: residual blocks of one width. The first block may change the resolution and the number of channels.

    Args:
        block: A block of torchvision's, which puts out ``planes * block.expansion`` channels.
        in_channels: Number of channels that enter the stage.
        planes: The stage's width.
        num_blocks: Number of blocks, 1 or more.
        stride: Stride of the first block.
        shortcut: Makes the first block's shortcut, where the identity does not fit, from (channels in, channels out,
            stride).
    """
    out_channels = planes * block.expansion
    changes = stride != 1 or in_channels != out_channels
    first = block(in_channels, planes, stride, shortcut(in_channels, out_channels, stride) if changes else None)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(num_blocks - 1)))


def initialise(module: nn.Module) -> None:
    """Initialise all convolutions anew: He-normal, by fan-out. All other layers keep torch's initial weights.

    Source: as torchvision's residual networks; He et al., "Delving deep into rectifiers", ICCV 2015.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
