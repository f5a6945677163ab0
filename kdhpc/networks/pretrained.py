"""Weights from files of an earlier training: whether they are those of a network, with torch at hand."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import build_network, named_for
from kdhpc.networks.weights import (
    PRETRAINED_REMEDY,
    check_content,
    pretrained_origin,
    pretrained_path,
    pretrained_remedy,
    read_content,
)


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


def check_weights(network: nn.Module, weights: dict[str, Tensor], *, origin: str) -> None:
    """Refuse weights of another network.

    Raises:
        NetworkError: they are another network's; the message names the first tensor that differs.
    """
    if different := _difference(network, weights):
        tensor, theirs, ours = different
        raise NetworkError(
            f"{origin} has {theirs} for tensor {tensor!r}, this network has {ours}: give weights of the same network "
            "and number of classes"
        )


def check_pretrained(
    objective: ObjectiveConfig, networks: Iterable[NetworkConfig], *, num_classes: int, image_size: int
) -> None:
    """Refuse a file of ``objective.pretrained`` that is not of its network, at the cost of reading it.

    Args:
        objective: The options.
        networks: Those that a node may be, each alone.
        num_classes: C.
        image_size: Side of the images, in pixels.

    Raises:
        NetworkError: there is no such file, it cannot be used, or it is another network's.
        StorageError: the file system refuses.
    """
    each = list(networks)
    read = {one.name: weights for one in each if (weights := read_pretrained(objective, one.name)) is not None}
    if not read:
        return
    with torch.device("meta"):
        shapes = {
            one.name: build_network(one, num_classes=num_classes, image_size=image_size)
            for one in each
            if one.name in read
        }
    for name, weights in read.items():
        if (different := _difference(shapes[name], weights)) is None:
            continue
        fitting = next((other for other in shapes if _difference(shapes[other], weights) is None), None)
        whose = f": it fits {fitting}" if fitting is not None else ""
        tensor, theirs, ours = different
        raise NetworkError(
            f"{pretrained_origin(objective, name)} does not fit {name} with {num_classes} classes{whose} "
            f"(tensor {tensor!r}: {theirs} in the file, {ours} in the network): {pretrained_remedy(name)}"
        )


def _difference(network: nn.Module, weights: dict[str, Tensor]) -> tuple[str, str, str] | None:
    """The first tensor that differs: its name, and its shape in the file and in the network; None: they fit."""
    expected, weights = network.state_dict(), named_for(network, weights)
    for name in sorted(expected.keys() | weights.keys()):
        theirs, ours = (list(tensors[name].shape) if name in tensors else None for tensors in (weights, expected))
        if theirs != ours:
            return name, str(theirs or "nothing"), str(ours or "nothing")
    return None
