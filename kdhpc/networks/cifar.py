"""The residual networks of He et al. for small images: three stages of 16, 32 and 64 channels, 6n + 2 layers."""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock

from kdhpc.networks.backbone import Backbone, SubsampleAndPad, make_stage, projection


def cifar_backbone(depth: int, *, projections: bool) -> Backbone:
    """The backbone of a residual network for small images, of basic blocks at every depth.

    Args:
        depth: Number of layers: 6n + 2, for n blocks in each stage.
        projections: Whether a shortcut that changes the shape is a projection (option B), as in attention branch
            networks. Otherwise it subsamples and pads (option A).

    Source: He et al., "Deep residual learning for image recognition", section 4.2.
    """
    num_blocks, rest = divmod(depth - 2, 6)
    assert rest == 0, f"a CIFAR ResNet has 6n + 2 layers, not {depth}"
    shortcut = projection if projections else SubsampleAndPad

    def stage(in_channels: int, planes: int, stride: int) -> nn.Sequential:
        return make_stage(
            BasicBlock,
            in_channels=in_channels,
            planes=planes,
            num_blocks=num_blocks,
            stride=stride,
            shortcut=shortcut,
        )

    lower = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(inplace=True),
            layer1=stage(16, 16, 1),
            layer2=stage(16, 32, 2),
        )
    )
    return Backbone(lower=lower, lower_channels=32, last_stage=lambda stride: stage(32, 64, stride), channels=64)
