"""The teacher of a student: a final training that is done."""

from dataclasses import dataclass
from pathlib import Path

import torch

from kdhpc.config.document import to_document
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.finished import FinishedRun, open_finished
from kdhpc.networks.build import build_network, named_for
from kdhpc.training.pretrained import check_weights
from kdhpc.training.student import TeacherWeights

_LOGITS = "head.fc.bias"
"""A tensor that every network of a node has, of the length C."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A run whose nodes' mean teaches."""

    run: FinishedRun
    """What teaches."""
    weights_digest: str
    """Names the content of its nodes' weights."""

    @property
    def settings(self) -> dict[str, object]:
        """What its answers depend on."""
        network = to_document(self.run.config.network)
        return {
            "teacher.weights": self.weights_digest,
            "teacher.network": network["name"],
            "teacher.residual_attention": network["residual_attention"],
        }

    def read(self) -> TeacherWeights:
        """The weights of its nodes.

        Raises:
            NetworkError: a file cannot be read as safetensors.
        """
        return TeacherWeights(
            network=self.run.config.network,
            image_size=self.run.config.dataset.image_size,
            nodes=tuple(self.run.read_weights(index) for index in range(len(self.run.weights))),
            origin=self.run.origin,
        )

    def check(self, num_classes: int) -> None:
        """Refuse a teacher that cannot teach so many classes.

        Raises:
            NetworkError: it tells others apart, or its weights are damaged or not its network's.
        """
        weights = self.read()
        with torch.device("meta"):
            shapes = build_network(weights.network, num_classes=num_classes, image_size=weights.image_size)
        for node in weights.nodes:
            biases = named_for(shapes, node).get(_LOGITS)
            if biases is not None and len(biases) != num_classes:
                raise NetworkError(
                    f"{weights.origin} tells {len(biases)} classes of {self.run.result.dataset} apart, this "
                    f"data set has {num_classes}: give a teacher that was trained with the same classes"
                )
            check_weights(shapes, node, origin=weights.origin)


def load_teacher(folder: Path) -> Teacher:
    """The teacher in a folder.

    Raises:
        ConfigError: no finished run lies there, or it is one of ONE.
        DataError: its result cannot be read.
        NetworkError: its weights are not there.
    """
    run = open_finished(folder, origin=f"run.teacher={folder}")
    if run.is_one:
        raise ConfigError(
            f"{run.origin} is a run of ONE, whose gated ensemble cannot teach: give a run of a graph, whose nodes' "
            "mean does"
        )
    return Teacher(run=run, weights_digest=run.weights_digest())
