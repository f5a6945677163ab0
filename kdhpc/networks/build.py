"""Building the network of a node by its name."""

from torch import Tensor, nn

from kdhpc.config.networks import Architecture
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.backbone import Backbone, initialise
from kdhpc.networks.cifar import cifar_backbone
from kdhpc.networks.heads import AttentionBranchHead, PlainHead
from kdhpc.networks.imagenet import imagenet_backbone
from kdhpc.networks.names import architecture, check_network
from kdhpc.networks.output import NetworkOutput


class Network(nn.Module):
    """The network of a node: lower stages and a head."""

    def __init__(self, lower: nn.Module, head: PlainHead | AttentionBranchHead) -> None:
        super().__init__()
        self.lower = lower
        self.head = head

    def forward(self, images: Tensor) -> NetworkOutput:
        """From images (N, 3, S, S)."""
        output: NetworkOutput = self.head(self.lower(images))
        return output


def build_network(config: NetworkConfig, *, num_classes: int, image_size: int) -> Network:
    """A freshly initialised network, from torch's global random state.

    Args:
        config: Name, crops (checked against the map), and the option of attention branch networks.
        num_classes: C.
        image_size: Side of the images, in pixels.

    Raises:
        NetworkError: unknown name, no classes, an option of another family, or a crop that is larger than the map.
    """
    check_network(config, image_size)
    if num_classes < 1:
        raise NetworkError(f"a network needs at least 1 class to tell, it was given {num_classes}: check the data set")
    backbone = make_backbone(architecture(config.name))
    network = Network(backbone.lower, make_head(backbone, config, num_classes=num_classes))
    initialise(network)
    return network


def make_backbone(kind: Architecture) -> Backbone:
    """The two parts of a residual network. CIFAR's attention branch network has projection shortcuts."""
    if kind.family == "cifar":
        return cifar_backbone(kind.depth, projections=kind.attention_branch)
    return imagenet_backbone(kind.depth)


def make_head(backbone: Backbone, config: NetworkConfig, *, num_classes: int) -> PlainHead | AttentionBranchHead:
    """What stands on the lower stages of that network; CIFAR's attention is residual by default."""
    kind = architecture(config.name)
    if not kind.attention_branch:
        return PlainHead(backbone, num_classes)
    residual = kind.family == "cifar" if config.residual_attention is None else config.residual_attention
    return AttentionBranchHead(backbone, num_classes, residual=residual)
