"""From a config to a training that can start."""

import numpy as np
import torch
from numpy.typing import NDArray

from kdhpc.config.schema import TrainConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.split import search_split, training_subset
from kdhpc.experiments.subject import Subject
from kdhpc.training.device import resolve_device
from kdhpc.training.loop import EnsembleTraining, TrainingLoop
from kdhpc.training.one import OneTraining


def assemble(config: TrainConfig, subject: Subject, packed: PackedDataset) -> TrainingLoop:
    """Networks, data and loop of a final training.

    Raises:
        ConfigError: the device is not there, or something does not fit the images.
        DataError: too few images for ``dataset.subset``.
        NetworkError: the network does not exist or does not fit.
    """
    if config.device.threads is not None:
        torch.set_num_threads(config.device.threads)
    train, test = _batches(config, packed)
    if subject.graph is None:
        return OneTraining(
            network=config.network,
            num_branches=subject.num_nodes,
            training=config.training,
            device=config.device,
            train=train,
            evaluation=test,
            num_classes=len(packed.classes),
            seed=config.run.seed,
        )
    return EnsembleTraining(
        graph=subject.graph,
        network=config.network,
        objective=config.objective,
        training=config.training,
        device=config.device,
        train=train,
        evaluation=test,
        num_classes=len(packed.classes),
        seed=config.run.seed,
    )


def num_training_images(config: TrainConfig, packed: PackedDataset) -> int:
    """Images that the networks learn from."""
    return len(_halves(config, packed)[0])


def _batches(config: TrainConfig, packed: PackedDataset) -> tuple[TrainBatches, EvalBatches]:
    device, channels_last = resolve_device(config.device), config.device.channels_last
    learnt, scored, half = _halves(config, packed)
    train = TrainBatches(
        packed.train,
        learnt,
        config.dataset,
        batch_size=config.training.batch_size,
        device=device,
        channels_last=channels_last,
    )
    test = EvalBatches(
        half,
        scored,
        config.dataset,
        batch_size=config.training.eval_batch_size,
        device=device,
        channels_last=channels_last,
    )
    return train, test


def _halves(
    config: TrainConfig, packed: PackedDataset
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, PackedSplit]:
    """Images to learn from (of the training half), images to score on (none: all), and the half that those are of."""
    dataset, labels = config.dataset, packed.train.labels
    if config.run.split == "search":
        split = search_split(
            labels, validation_fraction=dataset.validation_fraction, subset=dataset.subset, seed=dataset.split_seed
        )
        return split.train, split.validation, packed.train
    return training_subset(labels, subset=dataset.subset, seed=dataset.split_seed), None, packed.test
