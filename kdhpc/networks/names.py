"""What follows from the name of a network, such as the size of its attention map. Free of torch."""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from kdhpc.config.library_names import check_library_name, nearest_networks
from kdhpc.config.networks import NETWORKS, Architecture, is_foreign, is_of_library
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import ConfigError, NetworkError

_USUAL_CROPS = (3, 5, 7)
_OF_A_PROCESS = re.compile(r"-[0-9a-f]{8}$")
"""Names of networks that live in one process of Python: a class's name and a fingerprint."""


class ForeignNetwork(Protocol):
    """A network that is not kdhpc's own, where torch is at hand to run it."""

    def map_side(self, image_size: int, layer: str | None) -> int:
        """Side of the attention map, of a list of modules of their smallest, in pixels; 1 if there is no map."""
        ...

    def check(self, image_size: int, *, layer: str | None, num_classes: int | None, compares_maps: bool) -> None:
        """Refuse what cannot be trained on such images.

        Raises:
            NetworkError: it cannot; the message says why.
        """
        ...


_resolvers: list[Callable[[str], ForeignNetwork | None]] = []


def resolve_by(resolver: Callable[[str], ForeignNetwork | None]) -> None:
    """Let names of networks that are not kdhpc's own be understood in this process, which has torch."""
    _resolvers[:] = [resolver]


def can_resolve() -> bool:
    """Whether this process can run networks that are not kdhpc's own."""
    return bool(_resolvers)


def foreign_network(name: str) -> ForeignNetwork | None:
    """The network of a name that is not kdhpc's own; None: it is kdhpc's own, or this process has no torch."""
    return None if name in NETWORKS or not _resolvers else _resolvers[0](name)


def is_own(name: str) -> bool:
    """Whether a name is one of kdhpc's own networks."""
    return name in NETWORKS


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        NetworkError: there is none, or it is not kdhpc's own.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    check_name(name)
    raise NetworkError(f"network {name!r} is not kdhpc's own, and only those can be branched: give one of those")


def check_name(name: str) -> None:
    """Refuse a name of no network, as far as can be told without torch: ``module:Name`` by its form alone.

    Raises:
        NetworkError: with the nearest names.
    """
    if name in NETWORKS or foreign_network(name) is not None:
        return
    if is_of_library(name):
        check_library_name(name)
    elif _OF_A_PROCESS.search(name):
        raise NetworkError(
            f"network {name!r} is a user's own, which only the Python that has it knows: go on there, with kdhpc.load "
            "or kdhpc.train (docs/python.md), or train it by its place, as network=module:Name"
        )
    elif not is_foreign(name):
        raise NetworkError(f"unknown network {name!r}: {nearest_networks(name, NETWORKS)}")


def map_side(name: str, image_size: int, *, layer: str | None = None) -> int:
    """Side of the square attention map, for images of side ``image_size``; both in pixels. 1: there may be none.

    Args:
        name: Of the network. If it is not kdhpc's own, this process needs torch.
        image_size: Side of the images.
        layer: ``network.layer``.

    Raises:
        NetworkError: there is no such network, or it cannot run on such images.
    """
    foreign = foreign_network(name)
    if foreign is not None:
        return foreign.map_side(image_size, layer)
    return _reduced(image_size, architecture(name).map_reduction)


def crops_of(config: NetworkConfig, image_size: int, possible: Sequence[NetworkConfig] = ()) -> tuple[int, ...]:
    """Sides of the crops that are compared, as far as they fit into the smallest map: the largest ones are cut.

    Args:
        config: The network of every node, or of each.
        image_size: Side of the images, in pixels.
        possible: All networks that a node may be, each alone; empty: those of the config.

    Raises:
        NetworkError: as :func:`map_side`.
    """
    each = possible or [config.only(name) for name in config.distinct]
    side = min(map_side(one.name, image_size, layer=one.layer) for one in each)
    if config.crops is not None:
        return tuple(min(crop, side) for crop in config.crops)
    usual = min((architecture(one.name).crops if is_own(one.name) else _USUAL_CROPS for one in each), key=max)
    return tuple(crop for crop in usual if crop <= side) or (side,)


def check_network(
    config: NetworkConfig, image_size: int, *, num_classes: int | None = None, compares_maps: bool = True
) -> None:
    """Check that a network is known, can be trained on such images, and has the options and maps that are needed.

    Where this process has no torch, of a network that is not kdhpc's own only the name is checked.

    Args:
        config: The network.
        image_size: Side of the images, in pixels.
        num_classes: C; None: not known yet.
        compares_maps: Whether attention maps are compared: of a graph without an attention design, the size of the map
            does not matter.

    Raises:
        NetworkError: it is not so.
    """
    if config.nodes:
        _check_each(config, image_size, num_classes=num_classes, compares_maps=compares_maps)
        return
    check_name(config.name)
    _check_options(config)
    foreign = foreign_network(config.name)
    if foreign is not None:
        foreign.check(image_size, layer=config.layer, num_classes=num_classes, compares_maps=compares_maps)
    if compares_maps and config.crops is not None and (foreign is not None or is_own(config.name)):
        _check_crops(config, config.crops, image_size)


def _check_each(config: NetworkConfig, image_size: int, *, num_classes: int | None, compares_maps: bool) -> None:
    """The same of different networks; an option must have a meaning for one of them."""
    each = [config.only(name) for name in config.distinct]
    for one in each:
        check_network(one, image_size, num_classes=num_classes, compares_maps=compares_maps)
    names = ", ".join(config.nodes)
    if config.residual_attention is not None and all(one.residual_attention is None for one in each):
        raise NetworkError(
            f"network.residual_attention={config.residual_attention} has no meaning for {names}: leave it out, or use "
            "an abn_ network"
        )
    if config.layer is not None and all(one.layer is None for one in each):
        raise NetworkError(
            f"network.layer={config.layer} has no meaning for {names}, whose maps are made by their last stages: leave "
            "it out"
        )


def _check_options(config: NetworkConfig) -> None:
    name = config.name
    if config.residual_attention is not None and not (is_own(name) and architecture(name).attention_branch):
        raise NetworkError(
            f"network.residual_attention={config.residual_attention} has no meaning for {name}: "
            f"leave it out, or use {f'abn_{name}' if is_own(name) else 'an abn_ network'}"
        )
    if config.layer is not None and is_own(name):
        raise NetworkError(
            f"network.layer={config.layer} has no meaning for {name}, whose map is made by its last stage: leave it out"
        )


def _check_crops(config: NetworkConfig, crops: tuple[int, ...], image_size: int) -> None:
    side, largest = map_side(config.name, image_size, layer=config.layer), max(crops)
    if largest > side:
        raise NetworkError(
            f"network.crops={list(crops)} does not fit: the largest crop is {largest}x{largest}, "
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
    if not is_own(name) and single_value is None:  # Its layers are not known; torch says what it cannot do.
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
