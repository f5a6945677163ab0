"""Wide residual networks for small images: three stages of 16k, 32k and 64k channels, 6n + 4 layers."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from kdhpc.networks.backbone import Backbone


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, and a shortcut around both.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; else it is the input itself.

    Source: He et al., "Identity mappings in deep residual networks", figure 1b; Zagoruyko and Komodakis, "Wide residual
    networks", BMVC 2016, figure 1, and its code.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """From (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride), rounded up."""
        return self.added(features, self.activated(features))

    def activated(self, features: Tensor) -> Tensor:
        """What the convolutions see, (N, in_channels, H, W), 0 or more."""
        return F.relu(self.bn1(features))

    def added(self, features: Tensor, active: Tensor) -> Tensor:
        """The rest of the forward pass."""
        short = features if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + short
        return out


def wide_backbone(depth: int, width: int) -> Backbone:
    """The backbone of WRN-depth-width, without dropout. Its last stage ends in batch norm and ReLU.

    Args:
        depth: Number of layers on the longest path: 6n + 4, for n blocks in each stage.
        width: k, by which a stage has more channels than He et al.'s.

    Source: Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016, table 1.
    """
    num_blocks, rest = divmod(depth - 4, 6)
    assert rest == 0, f"a wide residual network has 6n + 4 layers, not {depth}"

    def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        first = PreActivationBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))

    def last_stage(stride: int) -> nn.Sequential:
        parts = [*stage(32 * width, 64 * width, stride), nn.BatchNorm2d(64 * width), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)

    lower = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            layer1=stage(16, 16 * width, 1),
            layer2=stage(16 * width, 32 * width, 2),
        )
    )
    return Backbone(lower=lower, lower_channels=32 * width, last_stage=last_stage, channels=64 * width)
