"""From a config to a training that can start."""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from kdhpc.config.paths import compile_cache_dir
from kdhpc.config.schema import DeviceConfig, TrainConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.split import search_split, training_subset
from kdhpc.final.subject import Subject
from kdhpc.networks.build import build_network
from kdhpc.networks.names import check_network, check_normalisation
from kdhpc.networks.weights import pretrained_origin
from kdhpc.training.auto_mode import AutoMode, has_choice
from kdhpc.training.compile_cache import cache_key
from kdhpc.training.device import (
    Precision,
    has_node_streams,
    preferred_mode,
    resolve_device,
    resolve_precision,
)
from kdhpc.training.loop import EnsembleTraining, TrainingLoop
from kdhpc.training.one import OneTraining
from kdhpc.training.pretrained import check_weights, read_pretrained
from kdhpc.training.student import StudentTraining

_Halves: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64] | None, PackedSplit]
"""Images to learn from (of the training half), images to score on (none: all), and the half that those are of."""


def check(config: TrainConfig, subject: Subject, packed: PackedDataset) -> None:
    """Find what would keep `assemble` from its end, on whatever device, without its cost.

    Raises:
        ConfigError: something does not fit the images.
        NetworkError: the network does not exist or does not fit, or pretrained weights or a teacher do not.
    """
    network, image_size = config.network, config.dataset.image_size
    check_network(network, image_size)
    check_normalisation(network.name, image_size, config.training.batch_size, gated=subject.is_one)
    # For the CPU, images stay where they are.
    _batches(config, packed, torch.device("cpu"))
    if subject.teacher is not None:
        subject.teacher.check(len(packed.classes))
    pretrained = read_pretrained(config.objective)
    if pretrained is not None:
        with torch.device("meta"):
            shapes = build_network(network, num_classes=len(packed.classes), image_size=image_size)
        check_weights(shapes, pretrained, origin=pretrained_origin(config.objective))


def check_device(config: DeviceConfig) -> Precision:
    """The precision that networks run in on this machine.

    Raises:
        ConfigError: its devices cannot do what is asked for.
    """
    device = resolve_device(config)
    has_node_streams(config, device)
    preferred_mode(config, device)
    return resolve_precision(config, device)


def assemble(config: TrainConfig, subject: Subject, packed: PackedDataset) -> TrainingLoop:
    """Networks, data and loop of a final training that has been checked."""
    if config.device.threads is not None:
        torch.set_num_threads(config.device.threads)
    device = resolve_device(config.device)
    train, test = _batches(config, packed, device)
    auto = _auto_mode(config, subject, len(packed.classes)) if has_choice(config.device, device) else None
    if subject.teacher is not None:
        return StudentTraining(
            network=config.network,
            teacher=subject.teacher.read(),
            temperature=config.run.temperature,
            training=config.training,
            device=config.device,
            train=train,
            evaluation=test,
            num_classes=len(packed.classes),
            seed=config.run.seed,
            auto=auto,
        )
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
            auto=auto,
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
        auto=auto,
    )


def _auto_mode(config: TrainConfig, subject: Subject, num_classes: int) -> AutoMode:
    kind = "" if subject.graph is not None else f"{subject.label} "
    key = cache_key(
        device=config.device,
        target=resolve_device(config.device),
        network=f"{kind}{config.network.name}",
        num_nodes=subject.num_nodes,
        num_classes=num_classes,
        image_size=config.dataset.image_size,
        batch_size=config.training.batch_size,
        eval_batch_size=config.training.eval_batch_size,
    )
    return AutoMode(key, compile_cache_dir())


def num_training_images(config: TrainConfig, packed: PackedDataset) -> int:
    """Images that the networks learn from."""
    return len(_halves(config, packed)[0])


def scored_batches(config: TrainConfig, packed: PackedDataset, device: torch.device) -> EvalBatches:
    """The images that a final training is scored on: the test half, or what a search would hold out.

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
