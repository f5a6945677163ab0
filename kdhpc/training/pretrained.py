"""Weights from files of an earlier training: for a node that no edge teaches, and for a teacher."""

import logging
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.graph.spec import GraphSpec
from kdhpc.networks.build import named_for
from kdhpc.networks.weights import PRETRAINED_REMEDY, check_content, pretrained_origin, pretrained_path, read_content

_LOG = logging.getLogger(__name__)


def warn_about_unlearned(graph: GraphSpec, objective: ObjectiveConfig, *, name: str) -> None:
    """Warn about the nodes of a graph that no edge teaches, and say what they vote with.

    Args:
        graph: The graph.
        objective: What becomes of such nodes.
        name: What the graph is called in the message.
    """
    nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
    if nodes:
        given = objective.pretrained
        files = ", ".join(given.values()) if isinstance(given, dict) else given
        weights = "its initial weights" if files is None else f"frozen weights of {files}"
        _LOG.warning("%s: no edge teaches node %s; it votes with %s", name, nodes, weights)


def read_pretrained(objective: ObjectiveConfig, network: str) -> dict[str, Tensor] | None:
    """The weights of ``objective.pretrained`` for a network, by its name; none without such a file.

    Raises:
        NetworkError, StorageError: see :func:`read_weights`.
    """
    path = pretrained_path(objective, network)
    if path is None:
        return None
    return read_weights(path, origin=pretrained_origin(objective, network), remedy=PRETRAINED_REMEDY)


def read_weights(path: Path, *, origin: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, which execute nothing when they are loaded.

    Args:
        path: The file.
        origin: What messages call it.
        remedy: What messages ask for instead.

    Raises:
        NetworkError: see :func:`parse_weights`; or there is no such file.
        StorageError: the file system refuses.
    """
    return parse_weights(read_content(path, origin=origin, remedy=remedy), origin=origin, remedy=remedy)


def parse_weights(content: bytes, *, origin: str, remedy: str) -> dict[str, Tensor]:
    """The tensors in the content of a ``.safetensors`` file; other arguments as for :func:`read_weights`.

    Raises:
        NetworkError: it is no such file, is not whole, or holds numbers that are none, as its training diverged.
    """
    check_content(content, origin=origin, remedy=remedy)
    return load(content)


def freeze_with(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Give a network these weights and statistics, for good: no gradients, and not to be put into training mode.

    Raises:
        NetworkError: they are another network's; the message names the first tensor that differs.
    """
    check_weights(network, weights, origin=origin)
    network.load_state_dict(named_for(network, weights))
    network.requires_grad_(False).eval()


def check_weights(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Refuse weights of another network.

    Raises:
        NetworkError: see :func:`freeze_with`.
    """
    expected, weights = network.state_dict(), named_for(network, weights)
    for name in sorted(expected.keys() | weights.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else None for tensors in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise NetworkError(
                f"{origin} has {shapes[0] or 'nothing'} for tensor {name!r}, this network has "
                f"{shapes[1] or 'nothing'}: give weights of the same network and number of classes"
            )
