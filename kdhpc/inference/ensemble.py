"""A finished run's networks as a module that predicts the classes of new images and shows attention maps.

Dimension suffixes: M nodes, L = M + 1 the ensemble and then its nodes, N images, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.finished import FinishedRun
from kdhpc.inference.preprocessing import BATCH_SIZE, Images, Preprocessing
from kdhpc.inference.ranking import TOP, Classification, ClassProbability
from kdhpc.networks.build import exported_weights
from kdhpc.networks.one import OneNetwork, OneOutput
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.own import OwnNetwork
from kdhpc.report.predictions import runtime_of
from kdhpc.training.evaluation import mean_ensemble
from kdhpc.training.runtime import Runtime


class EnsembleOutput(NamedTuple):
    """What the networks give for one batch."""

    node_logits_MNC: Tensor
    """float32 (M, N, C)."""
    ensemble_logits_NC: Tensor
    """float32 (N, C)."""
    maps: tuple[Tensor, ...]
    """The attention map of each node, (N, h, w); none where nodes make no maps."""

    @property
    def is_finite_N(self) -> Tensor:
        """bool (N,): whether all logits of an image are finite numbers."""
        every = torch.cat([self.ensemble_logits_NC.unsqueeze(0), self.node_logits_MNC])
        return every.isfinite().all(dim=2).all(dim=0)


class Ensemble(nn.Module):
    """The networks of a finished run, frozen, in evaluation mode.

    The ensemble's logits are the mean of the nodes' logits; those of ONE are its gate's. ``ensemble.to("cuda")`` moves
    it to a GPU; images are moved to the same device.
    """

    def __init__(self, nodes: Sequence[nn.Module], preprocessing: Preprocessing, run: FinishedRun) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(nodes)
        self.preprocessing = preprocessing
        self.run = run
        self._runtime: Runtime | None = None
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.preprocessing.card.classes

    def forward(self, batch: Tensor) -> Tensor:
        """The ensemble's logits, float32 (N, C), for a batch that :attr:`preprocessing` has made, (N, 3, S, S)."""
        return self._outputs(batch).ensemble_logits_NC

    def predict(self, images: Images, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """The class probabilities of the ensemble.

        Args:
            images: Files, images of Pillow's, or a tensor or array, uint8 (N, 1 or 3, H, W).
            batch_size: Number of images in a forward pass.

        Returns:
            float32 (N, C), on the CPU; rows sum to 1, columns are :attr:`classes`.

        Raises:
            DataError: an image that cannot be read, or a tensor of a wrong type, shape or range.
            StorageError: the file system refuses.
        """
        batches = self._batches(images, batch_size)
        return torch.cat([self.outputs(batch).ensemble_logits_NC.softmax(dim=1).cpu() for batch in batches])

    def classify(self, images: Images, *, top: int = TOP, batch_size: int = BATCH_SIZE) -> tuple[Classification, ...]:
        """The most probable classes of each image by name, as ``kdhpc predict`` has them.

        Args:
            images: As for :meth:`predict`.
            top: Number of classes; all, if there are fewer.
            batch_size: Number of images in a forward pass.

        Raises:
            ConfigError: ``top`` is below 1.
            DataError, StorageError: as :meth:`predict`.
        """
        if top < 1:
            raise ConfigError(f"top={top} is not allowed: 1 or more classes")
        batches = self._batches(images, batch_size)
        return tuple(one for batch in batches for one in self.ranked(self.outputs(batch), top))

    def attention(self, images: Images, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """The attention maps of all nodes.

        Args:
            images: As for :meth:`predict`.
            batch_size: Number of images in a forward pass.

        Returns:
            float32 (N, M, h, w), 0 or more, on the CPU. Maps of the nodes that are smaller than those of another node
            are resized to them.

        Raises:
            DataError, StorageError: as :meth:`predict`.
            NetworkError: a node makes no attention map.
        """
        self.check_maps()
        batches = self._batches(images, batch_size)
        return torch.cat([_side_by_side(self.outputs(batch).maps).cpu() for batch in batches])

    def check_maps(self) -> None:
        """Refuse to show attention maps where there are none.

        Raises:
            NetworkError: a node makes no attention map.
        """
        for number, node in enumerate(self.nodes, start=1):
            if isinstance(node, OneNetwork) or (isinstance(node, OwnNetwork) and not node.makes_map):
                raise NetworkError(f"{self.run.origin}: node {number} makes no attention map: nothing can be shown")

    def node_weights(self, node: int) -> dict[str, Tensor]:
        """Weights of a node, which counts from 0, by the names in its file of weights.

        If the network is one of torchvision's, these are torchvision's names.
        """
        return exported_weights(self.nodes[node])

    def outputs(self, batch: Tensor) -> EnsembleOutput:
        """What all networks give for a batch of :attr:`preprocessing`'s, in the precision of the run's scoring."""
        with torch.no_grad(), self._autocast():
            return self._outputs(batch)

    def ranked(self, output: EnsembleOutput, top: int) -> list[Classification]:
        """The most probable classes of each image of a batch. Of equal ones, the one with the lower label is first."""
        logits_LNC = torch.cat([output.ensemble_logits_NC.unsqueeze(0), output.node_logits_MNC])
        ranked_LNK = logits_LNC.softmax(dim=2).cpu().sort(dim=2, descending=True, stable=True)
        labels_NLK = ranked_LNK.indices[..., :top].transpose(0, 1).tolist()
        probabilities_NLK = ranked_LNK.values[..., :top].transpose(0, 1).tolist()
        return [
            Classification(ensemble=ensemble, nodes=tuple(nodes))
            for ensemble, *nodes in (
                map(self._named, labels_LK, probabilities_LK)
                for labels_LK, probabilities_LK in zip(labels_NLK, probabilities_NLK, strict=True)
            )
        ]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    def _named(self, labels: Sequence[int], probabilities: Sequence[float]) -> tuple[ClassProbability, ...]:
        both = zip(labels, probabilities, strict=True)
        return tuple(ClassProbability(self.classes[label], label, probability) for label, probability in both)

    def _outputs(self, batch: Tensor) -> EnsembleOutput:
        first = self.nodes[0]
        if isinstance(first, OneNetwork):
            one: OneOutput = first(batch)
            return EnsembleOutput(one.branch_logits_BNC.float(), one.ensemble_logits_NC.float(), ())
        outputs: list[NetworkOutput] = [node(batch) for node in self.nodes]
        nodes_MNC, ensemble_NC = mean_ensemble(torch.stack([output.logits for output in outputs]))
        return EnsembleOutput(nodes_MNC, ensemble_NC, tuple(output.attention_map for output in outputs))

    def _batches(self, images: Images, batch_size: int) -> Iterator[Tensor]:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} is not allowed: 1 or more images")
        return self.preprocessing(images, batch_size=batch_size, device=self.device)

    def _autocast(self) -> torch.autocast:
        """The precision in which the run was scored, as far as the device has it. It is found out once a device."""
        if self._runtime is None or self._runtime.device != self.device:
            self._runtime = runtime_of(self.run, self.device)
        self._runtime.enforce()  # Another run may have been used since.
        return self._runtime.autocast()


def _side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """The maps of all nodes, (n, M, h, w), resized to the largest of them."""
    maps = [one.float() for one in maps]
    largest = max((tuple(one.shape[1:]) for one in maps), key=lambda size: size[0] * size[1])
    return torch.stack([_resized(one, largest) for one in maps], dim=1)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
