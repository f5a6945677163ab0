"""Builds the network of a node by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
from kdhpc.networks.torchvision_names import from_torchvision, to_torchvision


class Network(nn.Module):
    """The network of a node: the lower stages of a backbone and a head."""

    def __init__(self, lower: nn.Module, head: PlainHead | AttentionBranchHead) -> None:
        super().__init__()
        self.lower = lower
        self.head = head

    def forward(self, images: Tensor) -> NetworkOutput:
        """The output for images (N, 3, S, S)."""
        output: NetworkOutput = self.head(self.lower(images))
        return output

    def exported_weights(self) -> dict[str, Tensor]:
        """Weights and batch-norm statistics by the names of files: torchvision's if it is torchvision's."""
        weights: dict[str, Tensor] = self.state_dict()
        return to_torchvision(weights) if self._is_torchvisions else weights

    def named_for_it(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file by the names that they have in this network."""
        return from_torchvision(weights) if self._is_torchvisions else dict(weights)

    @property
    def _is_torchvisions(self) -> bool:
        """Whether it has the layers of one of torchvision's: three lower stages, and no attention branch."""
        return hasattr(self.lower, "layer3") and isinstance(self.head, PlainHead)


@dataclass(frozen=True, kw_only=True)
class NodeOrder:
    """What a user's own network must fit to."""

    node: int
    """Number of the node, from 0."""
    num_classes: int
    """C, the number of classes."""
    image_size: int
    """Side of the images, in pixels."""


OWN_BUILDERS: dict[str, Callable[[NodeOrder], Network]] = {}
"""Functions that build users' own networks in this process, by name: see `kdhpc.networks.own`."""


def build_network(config: NetworkConfig, *, num_classes: int, image_size: int, node: int = 0) -> Network:
    """Build a network with initial weights that are drawn from torch's global random state.

    Args:
        config: The network's name and options. Its crops are checked against the size of the attention map.
        num_classes: C, 1 or more.
        image_size: Side of the images, in pixels.
        node: Number of the node, from 0. Only a user's own networks may differ from node to node.

    Raises:
        NetworkError: the name is unknown, there are no classes, an option belongs to another family of networks, or a
            crop is larger than the map.
    """
    config = config.of(node)
    check_network(config, image_size)
    if num_classes < 1:
        raise NetworkError(f"a network needs at least 1 class to tell, it was given {num_classes}: check the data set")
    if config.name in OWN_BUILDERS:
        return OWN_BUILDERS[config.name](NodeOrder(node=node, num_classes=num_classes, image_size=image_size))
    backbone = make_backbone(architecture(config.name))
    network = Network(backbone.lower, make_head(backbone, config, num_classes=num_classes))
    initialise(network)
    return network


def make_backbone(kind: Architecture) -> Backbone:
    """The backbone of an architecture. CIFAR's attention branch network has projection shortcuts."""
    if kind.family == "cifar":
        return cifar_backbone(kind.depth, projections=kind.attention_branch)
    return imagenet_backbone(kind.depth)


def make_head(backbone: Backbone, config: NetworkConfig, *, num_classes: int) -> PlainHead | AttentionBranchHead:
    """The head of a network. In CIFAR's attention branch network the attention is residual by default."""
    kind = architecture(config.name)
    if not kind.attention_branch:
        return PlainHead(backbone, num_classes)
    residual = kind.family == "cifar" if config.residual_attention is None else config.residual_attention
    return AttentionBranchHead(backbone, num_classes, residual=residual)


def exported_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights and batch-norm statistics of a node's or a baseline's network, by the names that they have in files."""
    if isinstance(network, Network):
        return network.exported_weights()
    weights: dict[str, Tensor] = network.state_dict()
    return weights


def named_for(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file by the names that they have in the network."""
    return network.named_for_it(weights) if isinstance(network, Network) else dict(weights)
