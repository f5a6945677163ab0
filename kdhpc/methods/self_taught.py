"""What methods have in common whose single network teaches itself, by parts that only its training has."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig, TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.methods.method import Method, refuse_unlearned
from kdhpc.networks.self_taught import SelfTaughtNetwork, build_student
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.model import Model, run_network

SelfTaughtT = TypeVar("SelfTaughtT", bound=SelfTaughtNetwork)


@dataclass(frozen=True, kw_only=True)
class SelfTaughtMethod(Method):
    """One plain residual network, which is its own ensemble. A method is a subclass."""

    network: NetworkConfig
    """That is kept."""
    image_size: int
    """S, in pixels."""

    name: ClassVar[str]
    """In the registry."""

    @property
    def num_nodes(self) -> int:
        """It is its own ensemble."""
        return 1

    @property
    def label(self) -> str:
        """Its name: what its options are, a user says with ``run.name``."""
        return self.name

    @property
    def key(self) -> str:
        """Its name: its options count among the settings."""
        return self.name

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """Its options."""

    def check(self, num_classes: int) -> None:
        """Refuse a network whose stages are not known.

        Raises:
            NetworkError: it is no plain residual network.
        """
        with torch.device("meta"):
            build_student(self.network, num_classes=num_classes, image_size=self.image_size, method=self.title)


def check_single(config: TrainConfig) -> None:
    """Refuse options that have no meaning for one network that learns.

    Raises:
        ConfigError: a number of nodes, or nodes that do not learn.
    """
    if config.run.num_nodes not in (None, 1):
        raise ConfigError(
            f"run.num_nodes={config.run.num_nodes} has no meaning for run.graph={config.run.graph}, one network: leave "
            "it out"
        )
    refuse_unlearned(config, "which learns")


class SelfTaughtModel(Model[SelfTaughtT]):
    """One network with the parts that only its training has; without them it is kept, and predicts."""

    @property
    def kept_networks(self) -> tuple[nn.Module, ...]:
        """The network alone."""
        return tuple(network.student for network in self.networks)

    def predict(self, images: Tensor) -> Prediction:
        """One forward pass of the images as they are."""
        (network,) = self.networks
        return mean_ensemble(self.forward(run_network, network.student, images).logits.unsqueeze(0))
