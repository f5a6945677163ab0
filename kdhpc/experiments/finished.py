"""A final training that is done, from its folder: what it was, what it came to, and its networks."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdhpc.config.document import read_config
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, DataError, NetworkError
from kdhpc.experiments.result import FinalResult, read_result
from kdhpc.networks.build import Network, build_network
from kdhpc.networks.weights import content_digest
from kdhpc.training.device import place
from kdhpc.training.pretrained import freeze_with, read_weights

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that is done."""

    paths: RunPaths
    """Its folder."""
    origin: str
    """What messages call it."""
    config: TrainConfig
    """What it was trained with."""
    result: FinalResult
    """What it came to."""
    dataset_checksum: str
    """Of the images that it learnt from."""

    @property
    def label(self) -> str:
        """Short name, for folders and tables."""
        return f"{self.result.name}-seed{self.result.seed}"

    @property
    def is_one(self) -> bool:
        """Whether it is a run of ONE: one branched network in one file."""
        # Of a graph it would be 12 hexadecimal digits.
        return self.result.graph_key.startswith("one")

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its networks."""
        return tuple(self.paths.weights(index) for index in range(1 if self.is_one else self.result.num_nodes))

    def read_weights(self, index: int) -> dict[str, Tensor]:
        """What is in the file of a network; ``index`` counts from 0.

        Raises:
            NetworkError: it cannot be read as safetensors.
        """
        path = self.weights[index]
        return read_weights(path, origin=f"{self.origin}: {path.name}", remedy="train it again")

    def weights_digest(self, *indices: int) -> str:
        """Names the content of those files; of all without an index.

        Raises:
            NetworkError: one cannot be read.
        """
        try:
            return content_digest([self.weights[index] for index in indices] or self.weights)
        except OSError as exc:
            raise NetworkError(
                f"{self.origin} is not whole: {exc.filename} cannot be read ({exc.strerror or exc}): train it again"
            ) from exc

    def network(self, node: int, num_classes: int, device: torch.device) -> Network:
        """A node's network as it was at the end, frozen, in evaluation mode. Not of ONE, which is branched.

        Args:
            node: Counts from 0.
            num_classes: C of its data set.
            device: Where it will run.

        Raises:
            NetworkError: the weights cannot be read, or are another network's.
        """
        assert not self.is_one, "the branches of ONE are no networks of their own"
        network = build_network(self.config.network, num_classes=num_classes, image_size=self.config.dataset.image_size)
        freeze_with(network, self.read_weights(node), origin=f"{self.origin}: {self.weights[node].name}")
        return place(network, device, channels_last=self.config.device.channels_last)

    def open_images(self) -> PackedDataset:
        """The images that it was trained and scored on.

        Raises:
            DataError: they are not prepared here, damaged, or others than those.
        """
        name = self.config.dataset.name
        packed = PackedDataset.open(packed_dir(name))
        if packed.checksum != self.dataset_checksum:
            raise DataError(
                f"{self.origin} was trained with other images than data set {name!r} has here (checksum "
                f"{self.dataset_checksum[:16]}, here {packed.checksum[:16]}): set KDHPC_DATA to where its images lie"
            )
        return packed


def open_finished(folder: Path, *, origin: str | None = None) -> FinishedRun:
    """The run in a folder.

    Args:
        folder: ``runs/train/NAME/seed<k>``, or wherever it was moved.
        origin: What messages call it; none: the folder.

    Raises:
        ConfigError: no finished run lies there.
        DataError: its result cannot be read.
    """
    paths, origin = RunPaths(folder), origin or str(folder)
    if not paths.result.is_file():
        raise ConfigError(f"{origin} {_why_not(paths)}: give a runs/train/NAME/seed<k> that is done")
    config, result = read_config(TrainConfig, paths.config), read_result(paths.result)
    try:
        checksum = str(json.loads(paths.settings.read_text())["dataset.checksum"])
    except OSError as exc:
        raise ConfigError(
            f"{origin} is not whole: {exc.filename} cannot be read ({exc.strerror or exc}): train it again"
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{origin} is not whole: {paths.settings} cannot be understood") from exc
    return FinishedRun(paths=paths, origin=origin, config=config, result=result, dataset_checksum=checksum)


def find_finished(folders: Iterable[Path]) -> tuple[FinishedRun, ...]:
    """The runs in folders, or below them; each once, by name and seed. Warns of those that are not done.

    Raises:
        ConfigError: there is none in one of the folders.
        DataError: the result of one cannot be read.
    """
    found: dict[Path, FinishedRun] = {}
    for folder in folders:
        results = [folder / "result.json"] if (folder / "result.json").is_file() else folder.rglob("seed*/result.json")
        runs = {path.parent.resolve(): open_finished(path.parent) for path in results}
        if not runs:
            why = "is no folder" if not folder.is_dir() else "holds no run of `kdhpc train` that is done"
            raise ConfigError(f"{folder} {why}: give runs/train/NAME, or a runs/train/NAME/seed<k>")
        found |= runs
        begun = [path.parent for path in folder.rglob("seed*/config.yaml") if path.parent.resolve() not in runs]
        if begun:
            _LOG.warning("left out, not done: %s", ", ".join(str(path) for path in sorted(begun)))
    return tuple(sorted(found.values(), key=lambda run: (run.result.name, run.result.seed)))


def _why_not(paths: RunPaths) -> str:
    if not paths.root.is_dir():
        return "is no folder"
    if paths.config.exists():
        return "is not done, the command that began it goes on"
    seeds = sorted(path.parent.name for path in paths.root.glob("seed*/result.json"))
    return f"holds several runs ({', '.join(seeds)})" if seeds else "is no run of `kdhpc train`"
