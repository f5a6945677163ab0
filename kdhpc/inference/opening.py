"""Opening a finished run as an ensemble: its folder or name, its networks, the names of its classes."""

import logging
from pathlib import Path

import torch
from torch import nn

from kdhpc.config.names import is_folder_name
from kdhpc.config.paths import RunPaths, final_root
from kdhpc.errors import DataError
from kdhpc.final.finished import FinishedRun, open_finished
from kdhpc.final.found import seed_folders
from kdhpc.final.model import ModelCard, read_model_card
from kdhpc.inference.ensemble import Ensemble
from kdhpc.inference.preprocessing import Preprocessing
from kdhpc.networks.one import OneNetwork, build_one
from kdhpc.training.pretrained import freeze_with

_LOG = logging.getLogger(__name__)
_CLASSIFIERS = ("head.fc.bias", "heads.0.fc.bias", "fc.bias")
"""Names of the classifier's bias in files of weights. Its length is the number of classes."""


def find_run(run: Path) -> FinishedRun:
    """Open the finished run that a user means.

    Args:
        run: Folder of a run, ``runs/train/NAME/seed<k>``; folder of a training, ``runs/train/NAME``, of which exactly
            one seed is done; or the training's ``NAME``, where no such folder is here.

    Raises:
        ConfigError: there is no finished run, there are several, or it diverged.
        DataError: its result cannot be read.
        StorageError: the file system refuses.
    """
    by_name = is_folder_name(str(run)) and not run.exists() and (final_root() / run).is_dir()
    folder = final_root() / run if by_name else run
    done = [path for path in seed_folders(folder) if RunPaths(path).result.is_file()]
    is_run = RunPaths(folder).result.exists()
    return open_finished(done[0] if len(done) == 1 and not is_run else folder, origin=str(run))


def as_ensemble(run: FinishedRun, device: torch.device) -> Ensemble:
    """The ensemble of a finished run, on a device. It no longer needs the data set or the folder.

    Raises:
        DataError: the names of its classes cannot be read.
        NetworkError: weights are missing, damaged or another network's.
        StorageError: the file system refuses.
    """
    card = card_of(run)
    if run.method.no_networks is not None:
        nodes: list[nn.Module] = [branched(run, len(card.classes), device)]
    else:
        nodes = [run.network(node, len(card.classes), device) for node in range(len(run.weights))]
    preprocessing = Preprocessing(card=card, config=run.config.dataset, channels_last=run.config.device.channels_last)
    return Ensemble(nodes, preprocessing, run)


def card_of(run: FinishedRun) -> ModelCard:
    """The run's model card. A run from before there were such cards gets its data set's, or else numbers as classes.

    Raises:
        DataError: the names of its classes cannot be read.
        StorageError: the file system refuses.
    """
    card = read_model_card(run.paths.model)
    if card is not None:
        return card
    try:
        return ModelCard.of(run.open_images().manifest)
    except DataError:
        weights = run.read_weights(0)
        biases = [weights[name] for name in _CLASSIFIERS if name in weights]
        if not biases:
            raise
        _LOG.warning("%s does not say its classes, and its data set is not here: they are numbers", run.origin)
        dataset = run.config.dataset
        photographs = dataset.augmentation == "resized_crop"
        side = dataset.resize if photographs else dataset.image_size
        classes = tuple(map(str, range(len(biases[0]))))
        return ModelCard(classes=classes, image_shape=(side, side, 3), resized=photographs)


def branched(run: FinishedRun, num_classes: int, device: torch.device) -> OneNetwork:
    """The single network of a run whose nodes are its branches.

    Raises:
        NetworkError: weights are missing, damaged or another network's.
        StorageError: the file system refuses.
    """
    run.check_weights()
    network = build_one(run.config.network, num_branches=run.result.num_nodes, num_classes=num_classes)
    freeze_with(network, run.read_weights(0), origin=run.origin)
    return network.to(device)
