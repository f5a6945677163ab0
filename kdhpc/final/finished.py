"""Opening a finished run from its folder: its config, its result and its networks."""

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
from kdhpc.final.found import find_results, unfinished_folders, why_no_result, with_results
from kdhpc.final.result import FinalResult, read_result
from kdhpc.final.settings import read_settings
from kdhpc.final.weights import check_digest, check_weights_files, weights_files
from kdhpc.methods.load import method_class
from kdhpc.methods.method import Method
from kdhpc.networks.own import refuse_named_code
from kdhpc.networks.pretrained import parse_weights
from kdhpc.networks.weights import content_digest, read_content
from kdhpc.training.device import place
from kdhpc.training.pretrained import freeze_with

_LOG = logging.getLogger(__name__)
_AGAIN = "train it again"
_GIVE = "give runs/train/NAME, or a runs/train/NAME/seed<k>"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that is done and has not diverged."""

    paths: RunPaths
    """Its paths."""
    origin: str
    """Its name in messages."""
    config: TrainConfig
    """The config that it was trained with."""
    result: FinalResult
    """Its result."""
    dataset_checksum: str
    """Checksum of its data set."""

    @property
    def label(self) -> str:
        """Short name, for folders and tables."""
        return f"{self.result.name}-seed{self.result.seed}"

    @property
    def method(self) -> type[Method]:
        """The class of the method that trained it.

        Raises:
            ConfigError: this kdhpc has no such method.
        """
        return method_class(self.result.method)

    @property
    def node_accuracies(self) -> tuple[float, ...]:
        """Top-1 accuracy of each node, in percent."""
        assert self.result.node_accuracies is not None, "a run that diverged is none of these"
        return self.result.node_accuracies

    @property
    def ensemble_accuracy(self) -> float:
        """Top-1 accuracy of the ensemble, in percent."""
        assert self.result.ensemble_accuracy is not None, "a run that diverged is none of these"
        return self.result.ensemble_accuracy

    @property
    def weights(self) -> tuple[Path, ...]:
        """Its files of weights: one for each node, or a single one if all nodes share it."""
        return weights_files(self.paths, self.result)

    def read_weights(self, index: int) -> dict[str, Tensor]:
        """The tensors in a file of weights, by name; ``index`` counts from 0.

        Raises:
            NetworkError: the file is missing or damaged, or has values that are infinite or NaN.
            StorageError: the file system refuses.
        """
        return parse_weights(self._content(index), origin=self._file(index), remedy=_AGAIN)

    def weights_digest(self, *indices: int) -> str:
        """A digest of the content of some files of weights; without an index, of all of them.

        Raises:
            NetworkError: a file is missing.
            StorageError: the file system refuses.
        """
        return content_digest(self._content(index) for index in indices or range(len(self.weights)))

    def check_weights(self) -> None:
        """Check that all weights are those that training has written.

        Raises:
            NetworkError, StorageError: as :func:`kdhpc.final.weights.check_weights_files`.
        """
        check_weights_files(self.paths, self.result, origin=self.origin, remedy=_AGAIN)

    def network(self, node: int, num_classes: int, device: torch.device) -> nn.Module:
        """A node's network as it was at the end of the training, frozen and in evaluation mode.

        It returns a `NetworkOutput`. Some methods have nodes without networks of their own, see `Method.no_networks`;
        this must not be called for them.

        Args:
            node: Number of the node, from 0.
            num_classes: C, number of classes of its data set.
            device: Device for the network.

        Raises:
            NetworkError: the weights are missing or damaged, another network's, or not what training has written.
            StorageError: the file system refuses.
        """
        assert self.method.no_networks is None, self.method.no_networks
        refuse_named_code(self.config.network.of(node).name, origin=self.origin, remedy="give --network module:Name")
        network = self.method.node_network(self.config, num_classes, node)
        content, origin = self._content(node), self._file(node)
        freeze_with(network, parse_weights(content, origin=origin, remedy=_AGAIN), origin=origin)
        check_digest(self.result, node, content, origin=origin, remedy=_AGAIN)
        return place(network, device, channels_last=self.config.device.channels_last)

    def _content(self, index: int) -> bytes:
        return read_content(self.weights[index], origin=self._file(index), remedy=_AGAIN)

    def _file(self, index: int) -> str:
        return f"{self.origin}: {self.weights[index].name}"

    def teaching_network(self, index: int, num_classes: int) -> nn.Module:
        """A network of the shapes in the file of that number, from 0, see `Method.teaching_network`."""
        return self.method.teaching_network(self.config, num_classes, index)

    def open_images(self) -> PackedDataset:
        """Open the data set that it was trained and scored on.

        Raises:
            DataError: the data set is not prepared here, is damaged, or has other images.
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
    """Open the finished run in a folder.

    Args:
        folder: Folder of the run: ``runs/train/NAME/seed<k>``, or wherever that was moved.
        origin: Name of the run in messages; None: the folder.

    Raises:
        ConfigError: there is no finished run, or it diverged.
        DataError: its result cannot be read.
        StorageError: the file system refuses.
    """
    paths, origin = RunPaths(folder), origin or str(folder)
    if not paths.result.is_file():
        raise ConfigError(f"{origin} {why_no_result(paths)}: give a runs/train/NAME/seed<k> that is done")
    result = read_result(paths.result)
    if result.divergence is not None:
        raise ConfigError(f"{origin} {result.divergence}: it has no weights, give a run that did not")
    return FinishedRun(
        paths=paths,
        origin=origin,
        # Its networks need no plug-in: designs and gates were for their training.
        config=read_config(TrainConfig, paths.config, imports=False),
        result=result,
        dataset_checksum=_dataset_checksum(paths, origin),
    )


def find_finished(folders: Iterable[Path]) -> tuple[FinishedRun, ...]:
    """All finished runs in folders and below them, each once, ordered by name and seed.

    Warns of runs below a folder that are left out: runs that are not done or that diverged, and copies.

    Args:
        folders: Folders of runs, or folders above them.

    Raises:
        ConfigError: there is no such folder, none has a finished run, or one is that of a run that diverged.
        DataError: a folder is itself the folder of a run, and its result cannot be read.
        StorageError: the file system refuses.
    """
    folders = tuple(folders)
    for folder in folders:
        if RunPaths(folder).result.is_file():
            open_finished(folder)
        elif not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: {_GIVE}")
    full = with_results(folders)
    if not full:
        names = ", ".join(map(str, folders))
        raise ConfigError(f"{names} holds no run of `kdhpc train` that is done: {_GIVE}")
    found = find_results(full)
    for one in found:
        if one.result.divergence is not None:
            _LOG.warning("left out: %s %s", one.paths.root, one.result.divergence)
    if begun := sorted({path for folder in full for path in unfinished_folders(folder)}):
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
