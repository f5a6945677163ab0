"""The features of a plain residual network, stage by stage: what methods that teach its inner layers see.

Dimension suffixes: N samples, D channels, H, W rows and columns.
"""

import torch
from torch import Tensor, nn

from kdhpc.errors import NetworkError
from kdhpc.networks.build import Network
from kdhpc.networks.heads import PlainHead


def check_stages(network: Network, *, name: str, method: str) -> None:
    """Refuse a network whose stages are not known.

    Args:
        network: Of a node.
        name: What messages call it.
        method: What needs the stages, for messages.

    Raises:
        NetworkError: it is no plain residual network.
    """
    if not _has_stages(network):
        raise NetworkError(
            f"{method} needs the stages of a plain residual network, which {name} does not show: give network=resnet18 "
            "or another of the resnet family, without an attention branch"
        )


def stage_features(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    """What each stage of a plain residual network puts out, after its ReLU.

    Args:
        network: One that `check_stages` lets pass.
        images: (N, 3, S, S).

    Returns:
        (N, D_i, H_i, W_i) each, from the first stage to the last, whose mean over H, W is classified.
    """
    features, values = [], images
    for name, layer in network.lower.named_children():
        values = layer(values)
        if name.startswith("layer"):
            features.append(values)
    return (*features, plain_head(network).layer4(values))


def plain_head(network: Network) -> PlainHead:
    """The last stage and the classifier of a network that `check_stages` lets pass."""
    head = network.head
    assert isinstance(head, PlainHead), "its stages are known"
    return head


def stage_channels(network: Network, image_size: int) -> tuple[int, ...]:
    """D_i of each stage: found by a dry run, which changes nothing.

    Args:
        network: One that `check_stages` lets pass, in training mode.
        image_size: S, in pixels.
    """
    network.eval()  # Batch norm leaves its statistics alone.
    try:
        with torch.no_grad():
            features = stage_features(network, torch.zeros(1, 3, image_size, image_size))
    finally:
        network.train()
    return tuple(one.shape[1] for one in features)


def _has_stages(network: Network) -> bool:
    lower = getattr(network, "lower", None)
    names = [name for name, _ in lower.named_children()] if isinstance(lower, nn.Sequential) else []
    return "layer1" in names and isinstance(getattr(network, "head", None), PlainHead)
