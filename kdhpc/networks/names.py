"""What follows from the name of a network, such as the size of its attention map. Free of torch."""

import re
from collections.abc import Callable

from kdhpc.config.networks import NETWORKS, Architecture
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import ConfigError, NetworkError, nearest

OWN_MAP_SIDES: dict[str, Callable[[int], int]] = {}
"""Users' own networks in this process, by name: functions from the images' side to the attention map's, in pixels."""
_OWN_NAME = re.compile(r":|-[0-9a-f]{8}$")
"""Names of such networks: ``module:Name``, or a class's name and a fingerprint."""


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        NetworkError: there is none, or it is a user's own network.
    """
    if name in OWN_MAP_SIDES:
        raise NetworkError(f"network {name!r} is your own, and only kdhpc's own can be branched: give one of those")
    if name not in NETWORKS and _OWN_NAME.search(name):
        raise NetworkError(
            f"network {name!r} is a user's own, which commands do not know: go on in Python, with kdhpc.load or "
            "kdhpc.search (docs/python.md)"
        )
    if name not in NETWORKS:
        raise NetworkError(f"unknown network {name!r}: {nearest(name, NETWORKS)}")
    return NETWORKS[name]


def map_side(name: str, image_size: int) -> int:
    """Side of the square attention map, for images of side ``image_size``; both in pixels."""
    if name in OWN_MAP_SIDES:
        return OWN_MAP_SIDES[name](image_size)
    return _reduced(image_size, architecture(name).map_reduction)


def check_network(config: NetworkConfig, image_size: int) -> None:
    """Check that a network is known, has the options that are given, and has a map with room for the crops.

    Raises:
        NetworkError: it is not so.
    """
    if config.nodes:
        each = [config.only(name) for name in config.distinct]
        for one in each:
            check_network(one, image_size)
        if config.residual_attention is not None and all(one.residual_attention is None for one in each):
            raise NetworkError(
                f"network.residual_attention={config.residual_attention} has no meaning for {', '.join(config.nodes)}: "
                "leave it out, or use an abn_ network"
            )
        return
    side = map_side(config.name, image_size)
    has_no_branch = config.name in OWN_MAP_SIDES or not architecture(config.name).attention_branch
    if config.residual_attention is not None and has_no_branch:
        raise NetworkError(
            f"network.residual_attention={config.residual_attention} has no meaning for {config.name}: "
            f"leave it out, or use {'an abn_ network' if config.name in OWN_MAP_SIDES else f'abn_{config.name}'}"
        )
    largest = max(config.crops)
    if largest > side:
        raise NetworkError(
            f"network.crops={list(config.crops)} does not fit: the largest crop is {largest}x{largest}, "
            f"the attention map of {config.name} at dataset.image_size={image_size} is {side}x{side}; "
            f"use crops of at most {side}, or larger images"
        )


def check_normalisation(name: str, image_size: int, batch_size: int, *, single_value: str | None = None) -> None:
    """Refuse batches of one image if a batch norm would see a single value in each channel.

    Batch norm needs several values of each channel to train.

    Args:
        name: Name of the network.
        image_size: Side of the images, in pixels.
        batch_size: Number of images in a step.
        single_value: Another place where batch norm sees one value per image, for the message; None: there is none.

    Raises:
        ConfigError: it would; the message says where.
    """
    if name in OWN_MAP_SIDES and single_value is None:  # Its layers are not known; torch says what it cannot do.
        return
    side = _reduced(image_size, architecture(name).reduction)
    if batch_size == 1 and (single_value is not None or side == 1):
        where = single_value or f"the last stage of {name}, 1x1 at dataset.image_size={image_size}"
        raise ConfigError(
            f"training.batch_size=1 is not allowed: batch norm would see a single value a channel in {where}; "
            "use 2 images or more"
        )


def _reduced(side: int, reduction: int) -> int:
    """The side after a reduction, rounded up, as convolutions of stride 2 with padding round."""
    return -(-side // reduction)
