"""Searches of noise, for benchmarks and checks: configs and batches, made without Hydra and without files."""

import functools
from dataclasses import dataclass

import numpy as np

from kdhpc.config.schema import (
    ClusterConfig,
    DatasetConfig,
    DeviceConfig,
    NetworkConfig,
    ObjectiveConfig,
    SearchConfig,
    StudyConfig,
    TrainingConfig,
    WorkerConfig,
)
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedSplit
from kdhpc.networks.names import architecture
from kdhpc.training.runtime import resolve_runtime
from tools.benchmarks.step import crops_of

_CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR_STD = (0.2023, 0.1994, 0.2010)
_DIFFERENT = 64
"""Images that differ; more are the same again."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    num_nodes: int
    """M."""
    batch_size: int
    """N."""
    image_size: int | None
    """S, in pixels; none: 32, and 224 for ImageNet's networks."""
    num_steps: int
    """Timed steps of a cell."""

    def pixels(self, network: str) -> int:
        """S of that network."""
        return self.image_size or (32 if architecture(network).family == "cifar" else 224)


def config_of(network: str, size: Size, **device: object) -> SearchConfig:
    """A search in the form of CIFAR-100, or of Stanford Dogs for ImageNet's networks; options of the device group."""
    small, pixels = architecture(network).family == "cifar", size.pixels(network)
    return SearchConfig(
        dataset=DatasetConfig(
            name="noise",
            image_size=pixels,
            augmentation="pad_crop" if small else "resized_crop",
            validation_fraction=0.5,
            resize=pixels * 8 // 7,
            mean=_CIFAR_MEAN if small else None,
            std=_CIFAR_STD if small else None,
        ),
        network=NetworkConfig(name=network, crops=crops_of(network, pixels)),
        objective=ObjectiveConfig(),
        training=TrainingConfig(batch_size=size.batch_size),
        device=DeviceConfig(**device),  # type: ignore[arg-type]
        study=StudyConfig(num_nodes=size.num_nodes, trials=16),
        worker=WorkerConfig(),
        cluster=ClusterConfig(),
    )


def noise_batches(config: SearchConfig, num_steps: int) -> tuple[TrainBatches, EvalBatches]:
    """Noise for epochs of so many steps, as large as what is packed; one batch and a bit to score."""
    side = config.dataset.image_size if config.dataset.augmentation == "pad_crop" else config.dataset.resize
    batch_size = config.training.batch_size
    split = _noise(batch_size * num_steps, side)
    scored = np.arange(min(batch_size + 1, len(split.labels)))
    device, channels_last = resolve_runtime(config.device).device, config.device.channels_last
    return (
        TrainBatches(split, None, config.dataset, batch_size=batch_size, device=device, channels_last=channels_last),
        EvalBatches(
            split, scored, config.dataset,
            batch_size=min(config.training.eval_batch_size, batch_size), device=device, channels_last=channels_last,
        ),
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def _noise(num_images: int, side: int) -> PackedSplit:
    images = np.random.default_rng(0).integers(0, 256, (min(num_images, _DIFFERENT), side, side, 3), dtype=np.uint8)
    return PackedSplit(
        images=np.resize(images, (num_images, side, side, 3)),
        labels=np.arange(num_images, dtype=np.int64) % 10,
        sizes=np.full((num_images, 2), side, dtype=np.int32),
    )
