"""The features of a plain residual network, stage by stage: what methods that teach its inner layers see.

Dimension suffixes: N samples, D channels, H, W rows and columns.
"""

import torch
from torch import Tensor, nn

from kdhpc.errors import NetworkError
from kdhpc.networks.build import Network
from kdhpc.networks.heads import PlainHead
from kdhpc.networks.wide import PreActivationBlock


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
            "or another of resnet8 to resnet152, wrn16_2 or wrn28_2, without an attention branch"
        )


def stage_features(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    """What each stage of a plain residual network puts out, after its ReLU.

    Args:
        network: One that `check_stages` lets pass.
        images: (N, 3, S, S).

    Returns:
        (N, D_i, H_i, W_i) each, from the first stage to the last, whose mean over H, W is classified. The stages of a
        wide network end in a sum; its batch norm and ReLU are the first layers of the next stage.
    """
    features: list[Tensor] = []
    values = images
    for name, layer in (*network.lower.named_children(), ("layer4", plain_head(network).layer4)):
        first = next(layer.children(), None)
        if features and isinstance(first, PreActivationBlock):
            features[-1] = active = first.activated(values)
            values = first.added(values, active)
            for block in list(layer.children())[1:]:
                values = block(values)
        else:
            values = layer(values)
        if name.startswith("layer"):
            features.append(values)
    return tuple(features)


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
