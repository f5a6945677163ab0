"""Making a final training from its config: checks, data, and the training loop."""

import dataclasses
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from kdhpc.config.paths import compile_cache_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.split import search_split, training_subset
from kdhpc.methods.method import Method
from kdhpc.networks.names import check_network, check_normalisation
from kdhpc.networks.pretrained import check_pretrained
from kdhpc.networks.started import check_started
from kdhpc.training.compiling import prepare_compiling
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.runtime import Runtime
from kdhpc.training.setting import TrainingSetting

_Halves: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64] | None, PackedSplit]
"""Indices of the images to train on, in the training half; indices of the images to score on (None: all); and the half
that the images to score on belong to."""


def check(config: TrainConfig, method: Method, packed: PackedDataset) -> None:
    """Check everything that would make `assemble` fail on any device, without making networks or copying images.

    Raises:
        ConfigError: something does not fit the images.
        NetworkError: the network does not exist or does not fit, or pretrained weights or a teacher do not.
    """
    network, image_size, num_classes = config.network, config.dataset.image_size, len(packed.classes)
    check_network(network, image_size, num_classes=num_classes, compares_maps=method.compares_maps)
    for name in network.distinct:
        check_normalisation(name, image_size, config.training.batch_size, single_value=method.single_value_norm)
    # For the CPU, images stay where they are.
    _batches(config, packed, torch.device("cpu"))
    method.check(num_classes)
    check_started(network, num_classes=num_classes, image_size=image_size)
    each = [network.only(name) for name in network.distinct]
    check_pretrained(config.objective, each, num_classes=num_classes, image_size=image_size)


def assemble(config: TrainConfig, method: Method, packed: PackedDataset, runtime: Runtime) -> TrainingLoop:
    """Networks, data and loop of a final training that has been checked.

    Args:
        config: What to train.
        method: The method that ``run.graph`` of the config names.
        packed: Its data set.
        runtime: Device, precision and mode. They are enforced: from now on this process computes with them.
    """
    runtime.enforce()
    train, test = _batches(config, packed, runtime.device)
    setting = TrainingSetting(
        network=config.network,
        objective=config.objective,
        training=config.training,
        runtime=runtime,
        train=train,
        evaluation=test,
        num_classes=len(packed.classes),
    )
    runtime, _ = prepare_compiling(
        setting,
        name=method.compiled_name(config.network.name),
        num_nodes=method.num_nodes,
        folder=compile_cache_dir(),
        is_shared=False,
    )
    return TrainingLoop(method, dataclasses.replace(setting, runtime=runtime), config.run.seed)


def num_training_images(config: TrainConfig, packed: PackedDataset) -> int:
    """Number of images that the networks are trained on."""
    return len(_halves(config, packed)[0])


def num_scored_images(config: TrainConfig, packed: PackedDataset) -> int:
    """Number of images that the accuracy is measured on."""
    _, scored, half = _halves(config, packed)
    return len(half.labels) if scored is None else len(scored)


def scored_batches(config: TrainConfig, packed: PackedDataset, device: torch.device) -> EvalBatches:
    """Batches of the images that a final training is scored on.

    They are the test images; or under ``run.split=search`` the training images on which a search scores graphs.

    Raises:
        ConfigError: the config does not fit the images.
    """
    return _scored(config, _halves(config, packed), device)


def _scored(config: TrainConfig, halves: _Halves, device: torch.device) -> EvalBatches:
    _, scored, half = halves
    return EvalBatches(
        half,
        scored,
        config.dataset,
        batch_size=config.training.eval_batch_size,
        device=device,
        channels_last=config.device.channels_last,
    )


def _batches(config: TrainConfig, packed: PackedDataset, device: torch.device) -> tuple[TrainBatches, EvalBatches]:
    halves = _halves(config, packed)
    train = TrainBatches(
        packed.train,
        halves[0],
        config.dataset,
        batch_size=config.training.batch_size,
        device=device,
        channels_last=config.device.channels_last,
    )
    return train, _scored(config, halves, device)


def _halves(config: TrainConfig, packed: PackedDataset) -> _Halves:
    dataset, labels = config.dataset, packed.train.labels
    if config.run.split == "search":
        split = search_split(
            labels, validation_fraction=dataset.validation_fraction, subset=dataset.subset, seed=dataset.split_seed
        )
        return split.train, split.validation, packed.train
    return training_subset(labels, subset=dataset.subset, seed=dataset.split_seed), None, packed.test
