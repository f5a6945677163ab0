"""Weights of an earlier training at work: for a node that no edge teaches, and for a teacher."""

import logging

from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.graph.spec import GraphSpec
from kdhpc.networks.build import named_for
from kdhpc.networks.pretrained import check_weights
from kdhpc.networks.weights import pretrained_path

_LOG = logging.getLogger(__name__)


def warn_about_unlearned(graph: GraphSpec, network: NetworkConfig, objective: ObjectiveConfig, *, name: str) -> None:
    """Warn about the nodes of a graph that no edge teaches, and say what they vote with.

    Args:
        graph: The graph.
        network: Of every node, unless the graph names them.
        objective: What becomes of such nodes.
        name: What the graph is called in the message.
    """
    nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
    if nodes:
        used = network.for_nodes(graph.networks)
        paths = [pretrained_path(objective, used.of(node).name) for node in graph.unlearned_nodes]
        files = ", ".join(dict.fromkeys(str(path) for path in paths if path is not None))
        weights = f"frozen weights of {files}" if files else "its initial weights"
        _LOG.warning("%s: no edge teaches node %s; it votes with %s", name, nodes, weights)


def freeze_with(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Give a network these weights and statistics, for good: no gradients, and not to be put into training mode.

    Raises:
        NetworkError: they are another network's; the message names the first tensor that differs.
    """
    check_weights(network, weights, origin=origin)
    network.load_state_dict(named_for(network, weights))
    network.requires_grad_(False).eval()
