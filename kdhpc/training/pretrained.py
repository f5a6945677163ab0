"""Weights for a node that no edge teaches, from a file of an earlier training."""

import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.graph.spec import GraphSpec

_LOG = logging.getLogger(__name__)


def tell_about_unlearned(graph: GraphSpec, objective: ObjectiveConfig, *, name: str) -> None:
    """Warn about the nodes of a graph that no edge teaches, and say what they vote with.

    Args:
        graph: The graph.
        objective: What becomes of such nodes.
        name: What the graph is called in the message.
    """
    nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
    if nodes:
        weights = "its initial weights" if objective.pretrained is None else f"frozen weights of {objective.pretrained}"
        _LOG.warning("%s: no edge teaches node %s; it votes with %s", name, nodes, weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, which execute nothing when they are loaded.

    Raises:
        NetworkError: it cannot be read, or is no such file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        raise NetworkError(
            f"objective.pretrained={path} cannot be read as safetensors ({' '.join(str(exc).split())}): give a "
            "node1.safetensors of `kdhpc train --graph independent --nodes 1`"
        ) from exc


def freeze_with(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Give a network these weights and statistics, for good: no gradients, and not to be put into training mode.

    Raises:
        NetworkError: they are another network's; the message names the first tensor that differs.
    """
    check_weights(network, weights, origin=origin)
    network.load_state_dict(weights)
    network.requires_grad_(False).eval()


def check_weights(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Refuse weights of another network.

    Raises:
        NetworkError: see :func:`freeze_with`.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else None for tensors in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise NetworkError(
                f"objective.pretrained={origin} has {shapes[0] or 'nothing'} for tensor {name!r}, this network has "
                f"{shapes[1] or 'nothing'}: give weights of the same network and number of classes"
            )
