"""A network together with parts that only its training has: further heads, or a teacher on its own features."""

from torch import nn

from kdhpc.config.schema import NetworkConfig
from kdhpc.networks.build import Network, build_network
from kdhpc.networks.stages import check_stages


class SelfTaughtNetwork(nn.Module):
    """What learns. ``student`` is what is kept of it, and what predicts.

    Args:
        student: A plain residual network.
    """

    def __init__(self, student: Network) -> None:
        super().__init__()
        self.student = student


def build_student(config: NetworkConfig, *, num_classes: int, image_size: int, method: str) -> Network:
    """The network that is kept, with initial weights that are drawn from torch's global random state.

    It is built before anything else is drawn: from the same seed, a plain training begins with the same weights.

    Args:
        config: A plain residual network.
        num_classes: C.
        image_size: S, in pixels.
        method: What needs its stages, for messages.

    Raises:
        NetworkError: it cannot be built, or is no plain residual network.
    """
    network = build_network(config, num_classes=num_classes, image_size=image_size)
    check_stages(network, name=config.name, method=method)
    return network
