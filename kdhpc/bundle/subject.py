"""What a bundle is made of: the networks of a finished run, as kdhpc itself runs them. The one place that opens them.

Dimension suffixes: M nodes, N images, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError
from kdhpc.final.finished import FinishedRun
from kdhpc.final.model import ModelCard
from kdhpc.inference.opening import branched, card_of
from kdhpc.networks.one import OneNetwork
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.runtime import resolve_runtime


class Networks(nn.Module):
    """The networks of a run, frozen, in evaluation mode, in float32 on the CPU."""

    def __init__(self, networks: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.eval()

    def predict(self, images: Tensor) -> Prediction:
        """The logits of all nodes and of their ensemble, as in kdhpc's evaluation, for images (N, 3, S, S)."""
        first = self.networks[0]
        if isinstance(first, OneNetwork):
            output = first(images)
            return Prediction(output.branch_logits_BNC.float(), output.ensemble_logits_NC.float())
        return mean_ensemble(torch.stack([network(images).logits for network in self.networks]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What a bundle gives.

        Args:
            images: float32 (N, 3, S, S), preprocessed.

        Returns:
            The logits of each node, float32 (N, M, C), and the class probabilities of the ensemble, float32 (N, C).
        """
        prediction = self.predict(images)
        return prediction.node_logits_MNC.transpose(0, 1).contiguous(), prediction.ensemble_logits_NC.softmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run, or one node of it, whose networks are exported."""

    run: FinishedRun
    """The run."""
    node: int | None
    """The only node that is exported, from 0; None: all of them."""
    networks: Networks
    """The networks that are exported."""
    card: ModelCard
    """Names of the classes, and the shape of stored images."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes that are exported, from 0."""
        return tuple(range(self.run.result.num_nodes)) if self.node is None else (self.node,)

    @property
    def names(self) -> tuple[str, ...]:
        """The network of each of these nodes."""
        return tuple(self.run.config.network.of(node).name for node in self.nodes)

    @property
    def image_size(self) -> int:
        """S, in pixels."""
        return self.run.config.dataset.image_size

    @property
    def is_branched(self) -> bool:
        """Whether all nodes are branches of a single network."""
        return self.run.method.no_networks is not None


def open_subject(run: FinishedRun, *, node: int | None = None) -> Subject:
    """Load the networks of a run for the CPU, in float32. From now on this process computes in float32.

    Args:
        run: The run.
        node: The only node to export, from 0; None: all of them.

    Raises:
        ConfigError: there is no such node, or it is no network of its own.
        DataError: nothing says which classes the run has.
        NetworkError: weights are damaged, or a network of somebody's own is not named in this process.
        StorageError: the file system refuses.
    """
    _check_node(run, node)
    device = torch.device("cpu")
    resolve_runtime(DeviceConfig(device="cpu", precision="float32"), device=device).enforce()
    card = card_of(run)
    num_classes = len(card.classes)
    networks: tuple[nn.Module, ...]
    if run.method.no_networks is not None:
        networks = (branched(run, num_classes, device),)
    else:
        nodes = range(len(run.weights)) if node is None else (node,)
        networks = tuple(run.network(one, num_classes, device) for one in nodes)
    for network in networks:
        network.to(memory_format=torch.contiguous_format)
    return Subject(run=run, node=node, networks=Networks(networks), card=card)


def _check_node(run: FinishedRun, node: int | None) -> None:
    if node is None:
        return
    if run.method.no_networks is not None:
        raise ConfigError(
            f"{run.origin} is a run of {run.method.title}, {run.method.no_networks}: leave --node {node + 1} out"
        )
    count = run.result.num_nodes
    if node >= count:
        nodes = "a single node, 1" if count == 1 else f"the nodes 1 to {count}"
        raise ConfigError(f"--node {node + 1} is not allowed: {run.origin} has {nodes}")
