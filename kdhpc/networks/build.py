"""Builds the network of a node by its name."""

from collections.abc import Mapping

from torch import Tensor, nn

from kdhpc.config.networks import Architecture
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.backbone import Backbone, initialise
from kdhpc.networks.cifar import cifar_backbone
from kdhpc.networks.heads import AttentionBranchHead, PlainHead
from kdhpc.networks.imagenet import imagenet_backbone
from kdhpc.networks.names import architecture, check_network
from kdhpc.networks.network import Network as Network  # What callers build, they name.
from kdhpc.networks.own import own_networks
from kdhpc.networks.wide import wide_backbone


def build_network(config: NetworkConfig, *, num_classes: int, image_size: int, node: int = 0) -> Network:
    """Build a network with initial weights that are drawn from torch's global random state.

    Args:
        config: The network's name and options. Its crops are whoever's to check who compares maps.
        num_classes: C, 1 or more.
        image_size: Side of the images, in pixels.
        node: Number of the node, from 0. Only a list of a user's own networks differs from node to node.

    Raises:
        NetworkError: the name is unknown, there are no classes, an option belongs to another family of networks, or
            the network cannot be trained on such images.
    """
    config = config.of(node)
    if num_classes < 1:
        raise NetworkError(f"a network needs at least 1 class to tell, it was given {num_classes}: check the data set")
    check_network(config, image_size, num_classes=num_classes, compares_maps=False)
    own = own_networks(config.name)
    if own is not None:
        return own.build(node, num_classes=num_classes, image_size=image_size, layer=config.layer)
    backbone = make_backbone(architecture(config.name))
    network = Network(backbone.lower, make_head(backbone, config, num_classes=num_classes))
    initialise(network)
    return network


def make_backbone(kind: Architecture) -> Backbone:
    """The backbone of an architecture. CIFAR's attention branch network has projection shortcuts."""
    if kind.width is not None:
        return wide_backbone(kind.depth, kind.width)
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
