"""Weights from files of an earlier training: for a node that no edge teaches, and for a teacher."""

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


def read_pretrained(objective: ObjectiveConfig) -> dict[str, Tensor] | None:
    """The weights of ``objective.pretrained``; none without such a file.

    Raises:
        NetworkError: see :func:`read_weights`.
    """
    if objective.pretrained is None:
        return None
    return read_weights(
        Path(objective.pretrained),
        origin=pretrained_origin(objective),
        remedy="give a node1.safetensors of `kdhpc train --graph independent --nodes 1`",
    )


def pretrained_origin(objective: ObjectiveConfig) -> str:
    """What messages call those weights."""
    return f"objective.pretrained={objective.pretrained}"


def read_weights(path: Path, *, origin: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, which execute nothing when they are loaded.

    Args:
        path: The file.
        origin: What messages call it.
        remedy: What messages ask for instead.

    Raises:
        NetworkError: it cannot be read, or is no such file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        raise NetworkError(f"{origin} cannot be read as safetensors ({' '.join(str(exc).split())}): {remedy}") from exc


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
                f"{origin} has {shapes[0] or 'nothing'} for tensor {name!r}, this network has "
                f"{shapes[1] or 'nothing'}: give weights of the same network and number of classes"
            )
