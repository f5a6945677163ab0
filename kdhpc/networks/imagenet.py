"""torchvision's residual networks for large images: four stages of 64 to 512 channels behind a stem of stride 4."""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from kdhpc.networks.backbone import Backbone, make_stage

_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def imagenet_backbone(depth: int) -> Backbone:
    """The backbone of torchvision's ``resnet<depth>``: the same layers in the same order, cut before ``layer4``.

    Args:
        depth: Number of layers: 18, 34, 50, 101 or 152.

    Source: He et al., "Deep residual learning for image recognition", table 1.
    """
    block, (first, second, third, fourth) = _BLOCKS[depth]
    width = block.expansion
    lower = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            layer1=make_stage(block, in_channels=64, planes=64, num_blocks=first, stride=1),
            layer2=make_stage(block, in_channels=64 * width, planes=128, num_blocks=second, stride=2),
            layer3=make_stage(block, in_channels=128 * width, planes=256, num_blocks=third, stride=2),
        )
    )
    return Backbone(
        lower=lower,
        lower_channels=256 * width,
        last_stage=lambda stride: make_stage(
            block, in_channels=256 * width, planes=512, num_blocks=fourth, stride=stride
        ),
        channels=512 * width,
    )
