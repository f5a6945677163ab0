"""A finished run as a module that predicts the classes of new images and shows attention maps."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdhpc.api.networks import listed_names, name_again
from kdhpc.config.networks import NETWORKS, is_of_library
from kdhpc.errors import NetworkError
from kdhpc.final.finished import FinishedRun
from kdhpc.inference.ensemble import Ensemble
from kdhpc.inference.opening import as_ensemble, find_run
from kdhpc.networks.own import OWN_NETWORKS
from kdhpc.report.predictions import device_here

if TYPE_CHECKING:
    from kdhpc.api.training import Run


def load(run: "Run | str | Path", *, network: object = None, device: str | torch.device | None = None) -> Ensemble:
    """The ensemble of a finished run.

    Args:
        run: What :func:`kdhpc.train` returned; the folder of a run, ``runs/train/NAME/seed<k>``; or the ``NAME`` of a
            training of which one seed is done.
        network: What was given to ``train`` as ``network``, if that was a module of your own and this is another
            process. Code that a run's files name is never imported.
        device: Device for the ensemble; None: the GPU if there is one, else the CPU.

    Returns:
        A module in evaluation mode. It no longer needs the data set or the folder.

    Raises:
        ConfigError: there is no finished run in the folder, or it diverged.
        DataError: the run's result cannot be read.
        NetworkError: weights are damaged, or ``network`` is missing or makes other modules than the run has.
        StorageError: the file system refuses.

    >>> import kdhpc, torch
    >>> images, labels = torch.zeros(40, 3, 16, 16, dtype=torch.uint8), torch.arange(40) % 2
    >>> images[labels == 1] = 255
    >>> run = kdhpc.train(
    ...     kdhpc.dml(2), dataset=(images, labels), network="resnet8", crops=[3], epochs=1, batch_size=8
    ... )
    >>> ensemble = kdhpc.load(run)
    >>> ensemble.predict(images[:4]).shape, ensemble.attention(images[:4]).shape, ensemble.classes
    (torch.Size([4, 2]), torch.Size([4, 2, 4, 4]), ('0', '1'))
    >>> [guess.name in ensemble.classes for guess in ensemble.classify(images[:1])[0].ensemble]
    [True, True]
    """
    finished = find_run(Path(run) if isinstance(run, (str, Path)) else run.folder)
    _settle_network(finished, network)
    return as_ensemble(finished, device_here() if device is None else torch.device(device))


def _settle_network(run: FinishedRun, network: object) -> None:
    config = run.config.network
    own = [name for name in config.distinct if name not in NETWORKS and not is_of_library(name)]
    if network is not None and not own:
        raise NetworkError(f"{run.origin} has the network {config.name}, one of kdhpc's: leave network= out")
    if network is not None and config.nodes:
        if listed_names(network) != config.nodes:
            raise NetworkError(f"{run.origin} has the networks {', '.join(config.nodes)}: give network= as that list")
    elif network is not None:
        name_again(config.name, network)
    elif missing := [name for name in own if name not in OWN_NETWORKS]:
        raise NetworkError(
            f"{run.origin} was trained with a network of somebody's own, {missing[0]}, which this process does not "
            "know: give network=, as to kdhpc.train"
        )
