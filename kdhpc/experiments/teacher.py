"""The teacher of a student: a final training that is done, from its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from kdhpc.config.document import read_config, to_document
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.experiments.result import FinalResult, read_result
from kdhpc.networks.build import build_network
from kdhpc.networks.weights import content_digest
from kdhpc.training.pretrained import check_weights, read_weights
from kdhpc.training.student import TeacherWeights

_LOGITS = "head.fc.bias"
"""A tensor that every network of a node has, of the length C."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A run that is done."""

    paths: RunPaths
    """Its folder."""
    config: TrainConfig
    """What it was trained with."""
    result: FinalResult
    """What it came to."""
    dataset_checksum: str
    """Of the images that it learnt from."""
    weights_digest: str
    """Names the content of its nodes' weights."""

    @property
    def origin(self) -> str:
        """What messages call it."""
        return f"run.teacher={self.paths.root}"

    @property
    def label(self) -> str:
        """Short name, for folders and tables."""
        return f"{self.result.name}-seed{self.result.seed}"

    @property
    def settings(self) -> dict[str, object]:
        """What its answers depend on."""
        network = to_document(self.config.network)
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
        files = [self.paths.weights(index) for index in range(self.result.num_nodes)]
        return TeacherWeights(
            network=self.config.network,
            image_size=self.config.dataset.image_size,
            nodes=tuple(
                read_weights(path, origin=f"{self.origin}: {path.name}", remedy="train that teacher again")
                for path in files
            ),
            origin=self.origin,
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
            if _LOGITS in node and len(node[_LOGITS]) != num_classes:
                raise NetworkError(
                    f"{self.origin} tells {len(node[_LOGITS])} classes of {self.result.dataset} apart, this data set "
                    f"has {num_classes}: give a teacher that was trained with the same classes"
                )
            check_weights(shapes, node, origin=self.origin)


def load_teacher(folder: Path) -> Teacher:
    """The teacher in a folder.

    Raises:
        ConfigError: no finished run lies there, or it is one of ONE.
        DataError: its result cannot be read.
        NetworkError: its weights are not there.
    """
    paths = RunPaths(folder)
    if not paths.result.is_file():
        raise ConfigError(f"run.teacher={folder} {_why_not(paths)}: give a runs/train/NAME/seed<k> that is done")
    config, result = read_config(TrainConfig, paths.config), read_result(paths.result)
    # Of a graph it would be 12 hexadecimal digits.
    if result.graph_key.startswith("one"):
        raise ConfigError(
            f"run.teacher={folder} is a run of ONE, whose gated ensemble cannot teach: give a run of a graph, whose "
            "nodes' mean does"
        )
    try:
        digest = content_digest(paths.weights(index) for index in range(result.num_nodes))
        checksum = str(json.loads(paths.settings.read_text())["dataset.checksum"])
    except OSError as exc:
        raise NetworkError(
            f"run.teacher={folder} is not whole: {exc.filename} cannot be read ({exc.strerror or exc}): train it again"
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"run.teacher={folder} is not whole: {paths.settings} cannot be understood") from exc
    return Teacher(paths=paths, config=config, result=result, dataset_checksum=checksum, weights_digest=digest)


def _why_not(paths: RunPaths) -> str:
    if not paths.root.is_dir():
        return "is no folder"
    if paths.config.exists():
        return "is not done, the command that began it goes on"
    seeds = sorted(path.parent.name for path in paths.root.glob("seed*/result.json"))
    return f"holds several runs ({', '.join(seeds)})" if seeds else "is no run of `kdhpc train`"
