"""Batches for training and for scoring.

The order, the crops and the other augmentations of an epoch depend on nothing but (seed, epoch), whatever the device
and wherever the epoch is entered: a resumed trial sees what an uninterrupted one would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.crops import Crops, seeded
from kdhpc.data.fitting import check_batch_size, check_resolution
from kdhpc.data.packed import PackedSplit
from kdhpc.data.store import Placement, store_images
from kdhpc.data.transform import Transform
from kdhpc.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images and their labels, on the device."""

    images: Tensor
    """float32 (N, 3, S, S)."""
    labels: Tensor
    """int64 (N,)."""


class BatchSpec(NamedTuple):
    """What a training batch is made of on the device: tensors there, of the same shapes for every batch."""

    streamed: Tensor
    """What the store makes images of."""
    boxes: Tensor
    """float32 (N, 4): see ``Crops``."""
    flip: Tensor
    """bool (N,)."""
    labels: Tensor
    """int64 (N,)."""
    changes: Tensor
    """float32 (N, P): see ``Transform.draw_changes``."""


class TrainBatches:
    """Shuffled, augmented batches of one size; what is left over at an epoch's end is dropped.

    Args:
        split: a half of a packed data set.
        indices: the images of it that train; None: all.
        config: the augmentation.
        batch_size: N.
        device: where batches are wanted.
        channels_last: memory format of the images.

    Raises:
        ConfigError: the config does not fit the images, or a batch is larger than all of them.
    """

    def __init__(
        self,
        split: PackedSplit,
        indices: NDArray[np.int64] | None,
        config: DatasetConfig,
        *,
        batch_size: int,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        chosen = _chosen(split, indices)
        check_batch_size(batch_size, len(chosen))
        check_resolution(config, split)
        self._transform = Transform(config, _stored(split), device=device, channels_last=channels_last)
        self._store = store_images(split.images, chosen, device)
        self._sizes = torch.from_numpy(split.sizes[chosen])
        self._labels = torch.from_numpy(split.labels[chosen]).to(device)
        self._batch_size = batch_size
        self._device = device
        self._image_size = config.image_size

    @property
    def num_images(self) -> int:
        """Images that train."""
        return len(self._sizes)

    @property
    def image_size(self) -> int:
        """S, the side of the images in pixels."""
        return self._image_size

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self.num_images // self._batch_size

    @property
    def placement(self) -> Placement:
        """Where the images are kept."""
        return self._store.placement

    def epoch(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """One epoch's batches: of each of its ``specs``, what ``make`` makes of it."""
        return map(self.make, self.specs(seed, epoch, first_step))

    def make(self, spec: BatchSpec) -> Batch:
        """Gather, cut and normalise on the device. Nothing waits for the host: a CUDA graph can do it."""
        crops = Crops(boxes=spec.boxes, flip=spec.flip)
        images = self._transform(self._store.gather(spec.streamed), crops, spec.changes)
        return Batch(images=images, labels=spec.labels)

    def specs(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[BatchSpec]:
        """One epoch's batches, still to be made.

        Args:
            seed: of the trial.
            epoch: 1-based.
            first_step: batches to leave out at the beginning, because they were trained on before an interruption;
                at most all of them.
        """
        generator = seeded("epoch", seed, epoch)
        order = torch.randperm(self.num_images, generator=generator)
        crops = self._transform.draw(self._sizes[order], generator)
        changes = self._transform.draw_changes(self.num_images, seeded("augmentations", seed, epoch))
        start, end = first_step * self._batch_size, self.steps_per_epoch * self._batch_size
        if start >= end:
            return
        order, crops = order[start:end], crops.part(start, end).to(self._device)
        labels = self._labels.index_select(0, order.to(self._device))
        changes = changes[start:end].to(self._device)
        parts = (torch.split(values, self._batch_size) for values in (crops.boxes, crops.flip, labels, changes))
        for spec in zip(self._store.stream(order, self._batch_size), *parts, strict=True):
            yield BatchSpec(*spec)


class EvalBatches:
    """Every image once, in order, by its centre; the last batch may be smaller.

    Args:
        split: a half of a packed data set.
        indices: the images of it that are scored; None: all.
        config: the test transform.
        batch_size: N.
        device: where batches are wanted.
        channels_last: memory format of the images.

    Raises:
        ConfigError: the config does not fit the images.
        DataError: there are no images.
    """

    def __init__(
        self,
        split: PackedSplit,
        indices: NDArray[np.int64] | None,
        config: DatasetConfig,
        *,
        batch_size: int,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        chosen = _chosen(split, indices)
        if len(chosen) == 0:
            raise DataError(f"no image of {config.name} is left to score: use more images, or a larger share of them")
        check_resolution(config, split)
        self._transform = Transform(config, _stored(split), device=device, channels_last=channels_last)
        self._store = store_images(split.images, chosen, device)
        self._crops = self._transform.centre(torch.from_numpy(split.sizes[chosen])).to(device)
        self._labels = torch.from_numpy(split.labels[chosen]).to(device)
        self._batch_size = batch_size

    @property
    def num_images(self) -> int:
        """Images that are scored."""
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """int64 (N,), of all of them, on the device."""
        return self._labels

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(self.num_images)
        for start, streamed in zip(
            range(0, self.num_images, self._batch_size), self._store.stream(order, self._batch_size), strict=True
        ):
            end = start + self._batch_size
            images = self._transform(self._store.gather(streamed), self._crops.part(start, end))
            yield Batch(images=images, labels=self._labels[start:end])


def _chosen(split: PackedSplit, indices: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.arange(len(split.labels), dtype=np.int64) if indices is None else np.asarray(indices, dtype=np.int64)


def _stored(split: PackedSplit) -> tuple[int, int]:
    return split.images.shape[1], split.images.shape[2]
