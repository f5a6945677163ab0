"""The networks that a node can be, by name, and the size of the attention map that each makes. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import ConfigError, NetworkError, nearest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a name stands for."""

    family: Literal["cifar", "imagenet"]
    """``cifar``: He et al.'s three stages for small images. ``imagenet``: torchvision's four stages."""
    depth: int
    """Weighted layers on the longest path, as in the name."""
    attention_branch: bool = False
    """Attention branch network: an attention map weights the features that enter the last stage."""

    @property
    def reduction(self) -> int:
        """Image pixels that one pixel of the last stage's features spans."""
        return 4 if self.family == "cifar" else 32

    @property
    def map_reduction(self) -> int:
        """Image pixels that one pixel of the attention map spans.

        A plain network's map comes from its last stage, an attention branch network's from one stage before.
        """
        return self.reduction // 2 if self.attention_branch else self.reduction


_PLAIN: dict[str, Architecture] = {
    "resnet8": Architecture(family="cifar", depth=8),
    "resnet14": Architecture(family="cifar", depth=14),
    "resnet20": Architecture(family="cifar", depth=20),
    "resnet26": Architecture(family="cifar", depth=26),
    "resnet32": Architecture(family="cifar", depth=32),
    "resnet44": Architecture(family="cifar", depth=44),
    "resnet56": Architecture(family="cifar", depth=56),
    "resnet110": Architecture(family="cifar", depth=110),
    "resnet18": Architecture(family="imagenet", depth=18),
    "resnet34": Architecture(family="imagenet", depth=34),
    "resnet50": Architecture(family="imagenet", depth=50),
    "resnet101": Architecture(family="imagenet", depth=101),
    "resnet152": Architecture(family="imagenet", depth=152),
}

NETWORKS: dict[str, Architecture] = {
    **_PLAIN,
    **{f"abn_{name}": replace(plain, attention_branch=True) for name, plain in _PLAIN.items()},
}


OWN_MAP_SIDES: dict[str, Callable[[int], int]] = {}
"""Of networks of users' own, by name, in this process: the side of the attention map for a side of the images."""


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        NetworkError: there is none.
    """
    if name in OWN_MAP_SIDES:
        raise NetworkError(f"network {name!r} is your own, and only kdhpc's own can be branched: give one of those")
    if name not in NETWORKS:
        raise NetworkError(f"unknown network {name!r}: {nearest(name, NETWORKS)}")
    return NETWORKS[name]


def map_side(name: str, image_size: int) -> int:
    """Side of the (square) attention map, in pixels, for images of that side."""
    if name in OWN_MAP_SIDES:
        return OWN_MAP_SIDES[name](image_size)
    return _reduced(image_size, architecture(name).map_reduction)


def check_network(config: NetworkConfig, image_size: int) -> None:
    """Refuse a network that is unknown, an option that it does not have, or crops that its attention map cannot hold.

    Raises:
        NetworkError: the name, the option, or both sizes.
    """
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
    """Refuse batches of one image where batch norm, which learns from several values, would see a single one a channel.

    Args:
        name: The network's.
        image_size: Side of the images, in pixels.
        batch_size: Images a step.
        single_value: Where else batch norm sees one value an image, for the message; None: nowhere.

    Raises:
        ConfigError: the message says where.
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
    """Each halving rounds up, as a convolution of stride 2 with a border does."""
    return -(-side // reduction)
