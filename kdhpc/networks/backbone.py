"""What both families of residual networks are made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A residual network without its classifier, cut in two before its last stage.

    The cut is where attention branch networks weight the features, and where the networks of ONE part.
    """

    lower: nn.Module
    """Images (N, 3, H, W) to the features that enter the last stage."""
    lower_channels: int
    """Channels of those features."""
    last_stage: Callable[[int], nn.Module]
    """Builds a last stage of a given stride; the network's own has stride 2."""
    channels: int
    """Channels that the last stage puts out."""


class SubsampleAndPad(nn.Module):
    """A shortcut without parameters: every second pixel, and zeros for the new channels.

    Source: He et al., "Deep residual learning for image recognition", section 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self._padding = (0, 0, 0, 0, before, out_channels - in_channels - before)
        self._stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        return F.pad(features[:, :, :: self._stride, :: self._stride], self._padding)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A shortcut that learns: 1x1 convolution and batch norm. Source: as above, option B."""
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
    """Residual blocks of one width, the first of which changes resolution and channels.

    Args:
        block: torchvision's block; it puts out ``planes * block.expansion`` channels.
        in_channels: Channels that enter.
        planes: The stage's width.
        num_blocks: Blocks.
        stride: Of the first block.
        shortcut: From (channels in, channels out, stride), where the identity does not fit.
    """
    out_channels = planes * block.expansion
    changes = stride != 1 or in_channels != out_channels
    first = block(in_channels, planes, stride, shortcut(in_channels, out_channels, stride) if changes else None)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(num_blocks - 1)))


def initialise(module: nn.Module) -> None:
    """He-normal convolutions (fan-out), batch norms of weight 1 and bias 0; linear layers keep torch's default."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
