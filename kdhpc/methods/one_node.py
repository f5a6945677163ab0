"""A node of a run as a run of its own: what teaches a student where a single node is asked for."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.methods.method import Method, TrainedRun


@dataclass(frozen=True, kw_only=True)
class OneNode:
    """One node of a final training that is done. It is a `TrainedRun`, whose only file is the node's."""

    run: TrainedRun
    """The whole of it."""
    node: int
    """Counts from 0."""

    @property
    def label(self) -> str:
        """The run's, and the node's number from 1."""
        return f"{self.run.label}-node{self.node + 1}"

    @property
    def origin(self) -> str:
        """What messages call it."""
        return f"{self.run.origin}: node {self.node + 1}"

    @property
    def config(self) -> TrainConfig:
        """What the run was trained with."""
        return self.run.config

    @property
    def method(self) -> type[Method]:
        """What the run was trained by."""
        return self.run.method

    @property
    def dataset_checksum(self) -> str:
        """Of the images that the run learnt from."""
        return self.run.dataset_checksum

    @property
    def ensemble_accuracy(self) -> float:
        """The node's own: top-1, in percent."""
        return self.run.node_accuracies[self.node]

    @property
    def node_accuracies(self) -> tuple[float, ...]:
        """The node's own."""
        return (self.ensemble_accuracy,)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The node's file."""
        return (self.run.weights[self.node],)

    def read_weights(self, index: int) -> dict[str, Tensor]:
        """What is in the node's file; ``index`` is 0."""
        return self.run.read_weights(self.node + index)

    def teaching_network(self, index: int, num_classes: int) -> nn.Module:
        """A network of the shapes in the node's file; ``index`` is 0."""
        return self.method.node_network(self.config, num_classes, self.node + index)

    def weights_digest(self, *indices: int) -> str:
        """Names the content of the node's file."""
        return self.run.weights_digest(self.node)

    def check_weights(self) -> None:
        """As of the whole run."""
        self.run.check_weights()


def one_node(run: TrainedRun, number: int) -> OneNode:
    """A node of a run.

    Args:
        run: Whose nodes are networks of their own.
        number: Of the node, from 1.

    Raises:
        ConfigError: it has no such node, or its nodes are no networks.
    """
    if run.method.no_networks is not None:
        raise ConfigError(
            f"{run.origin} is a run of {run.method.title}, {run.method.no_networks}: leave run.teacher_node={number} "
            "out, and its ensemble teaches"
        )
    num_nodes = len(run.node_accuracies)
    if number > num_nodes:
        nodes = "a single node, 1" if num_nodes == 1 else f"the nodes 1 to {num_nodes}"
        raise ConfigError(f"run.teacher_node={number} is not allowed: {run.origin} has {nodes}")
    return OneNode(run=run, node=number - 1)
