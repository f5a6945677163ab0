"""A final training that is done, from its folder: what it was, what it came to, and its networks."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdhpc.config.document import read_config
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, DataError
from kdhpc.final.found import find_results, result_folders, seed_folders, unfinished_folders
from kdhpc.final.result import FinalResult, read_result
from kdhpc.final.settings import read_settings
from kdhpc.final.weights import check_digest, check_weights_files, weights_files
from kdhpc.methods.load import method_class
from kdhpc.methods.method import Method
from kdhpc.networks.own import refuse_named_code
from kdhpc.networks.weights import content_digest, read_content
from kdhpc.training.device import place
from kdhpc.training.pretrained import freeze_with, parse_weights

_LOG = logging.getLogger(__name__)
_AGAIN = "train it again"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that is done, and has not diverged."""

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
    def method(self) -> type[Method]:
        """What it was trained by.

        Raises:
            ConfigError: this kdhpc has no such method.
        """
        return method_class(self.result.method)

    @property
    def node_accuracies(self) -> tuple[float, ...]:
        """Top-1 of each node, in percent."""
        assert self.result.node_accuracies is not None, "a run that diverged is none of these"
        return self.result.node_accuracies

    @property
    def ensemble_accuracy(self) -> float:
        """Top-1 of the ensemble, in percent."""
        assert self.result.ensemble_accuracy is not None, "a run that diverged is none of these"
        return self.result.ensemble_accuracy

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its networks."""
        return weights_files(self.paths, self.result)

    def read_weights(self, index: int) -> dict[str, Tensor]:
        """What is in the file of a network; ``index`` counts from 0.

        Raises:
            NetworkError: it is missing or damaged, or holds numbers that are none.
            StorageError: the file system refuses.
        """
        return parse_weights(self._content(index), origin=self._file(index), remedy=_AGAIN)

    def weights_digest(self, *indices: int) -> str:
        """Names the content of those files; of all without an index.

        Raises:
            NetworkError: one is missing.
            StorageError: the file system refuses.
        """
        return content_digest(self._content(index) for index in indices or range(len(self.weights)))

    def check_weights(self) -> None:
        """Refuse weights that are not those that training has written.

        Raises:
            NetworkError, StorageError: as :func:`kdhpc.final.weights.check_weights_files`.
        """
        check_weights_files(self.paths, self.result, origin=self.origin, remedy=_AGAIN)

    def network(self, node: int, num_classes: int, device: torch.device) -> nn.Module:
        """A node's network as it was at the end, frozen, in evaluation mode; it gives `NetworkOutput`.

        Not of a method whose nodes are no networks of their own, see `Method.no_networks`.

        Args:
            node: Counts from 0.
            num_classes: C of its data set.
            device: Where it will run.

        Raises:
            NetworkError: the weights are missing or damaged, another network's, or not what training has written.
            StorageError: the file system refuses.
        """
        assert self.method.no_networks is None, self.method.no_networks
        refuse_named_code(self.config.network.name, origin=self.origin, remedy="give --network module:Name")
        network = self.method.node_network(self.config, num_classes, node)
        content, origin = self._content(node), self._file(node)
        freeze_with(network, parse_weights(content, origin=origin, remedy=_AGAIN), origin=origin)
        check_digest(self.result, node, content, origin=origin, remedy=_AGAIN)
        return place(network, device, channels_last=self.config.device.channels_last)

    def _content(self, index: int) -> bytes:
        return read_content(self.weights[index], origin=self._file(index), remedy=_AGAIN)

    def _file(self, index: int) -> str:
        return f"{self.origin}: {self.weights[index].name}"

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
        origin: What messages call it; None: the folder.

    Raises:
        ConfigError: no finished run lies there, or one that diverged.
        DataError: its result cannot be read.
        StorageError: the file system refuses.
    """
    paths, origin = RunPaths(folder), origin or str(folder)
    if not paths.result.is_file():
        raise ConfigError(f"{origin} {_why_not(paths)}: give a runs/train/NAME/seed<k> that is done")
    result = read_result(paths.result)
    if result.divergence is not None:
        raise ConfigError(f"{origin} {result.divergence}: it has no weights, give a run that did not")
    return FinishedRun(
        paths=paths,
        origin=origin,
        config=read_config(TrainConfig, paths.config),
        result=result,
        dataset_checksum=_dataset_checksum(paths, origin),
    )


def find_finished(folders: Iterable[Path]) -> tuple[FinishedRun, ...]:
    """The runs in folders, or below them; each once, by name and seed.

    Warns of what lies below a folder and is left out: runs that are not done or that diverged, and copies.

    Raises:
        ConfigError: there is none in one of the folders, or one that is named itself diverged.
        DataError: the result of one that is named itself cannot be read.
        StorageError: the file system refuses.
    """
    folders = tuple(folders)
    for folder in folders:
        if RunPaths(folder).result.is_file():
            open_finished(folder)
        elif not result_folders(folder):
            why = "is no folder" if not folder.is_dir() else "holds no run of `kdhpc train` that is done"
            raise ConfigError(f"{folder} {why}: give runs/train/NAME, or a runs/train/NAME/seed<k>")
    found = find_results(folders)
    for one in found:
        if one.result.divergence is not None:
            _LOG.warning("left out: %s %s", one.paths.root, one.result.divergence)
    if begun := sorted({path for folder in folders for path in unfinished_folders(folder)}):
        _LOG.warning("left out, not done: %s", ", ".join(map(str, begun)))
    runs = [open_finished(one.paths.root) for one in found if one.result.divergence is None]
    if not runs:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: no run of `kdhpc train` that is done is left: give runs that can be read "
            "and did not diverge"
        )
    return tuple(sorted(runs, key=lambda run: (run.result.name, run.result.seed)))


def _dataset_checksum(paths: RunPaths, origin: str) -> str:
    settings = read_settings(paths.settings)
    checksum = None if settings is None else settings.get("dataset.checksum")
    if checksum is None:
        problem = "cannot be understood" if paths.settings.exists() else "cannot be read (there is none)"
        raise ConfigError(f"{origin} is not whole: {paths.settings} {problem}: {_AGAIN}")
    return str(json.loads(checksum))


def _why_not(paths: RunPaths) -> str:
    if not paths.root.is_dir():
        return "is no folder"
    if paths.config.exists():
        return "is not done, the command that began it goes on"
    seeds = [path.name for path in seed_folders(paths.root) if RunPaths(path).result.exists()]
    return f"holds several runs ({', '.join(seeds)})" if seeds else "is no run of `kdhpc train`"
