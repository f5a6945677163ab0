"""The interfaces through which a training gets its data: batches on the device where the networks run."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class ImageBatch(Protocol):
    """Images and their labels."""

    @property
    def images(self) -> Tensor:
        """(N, 3, S, S), float32, normalised, and in training augmented."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,), int64."""
        ...


class TrainSource(Protocol):
    """Shuffled, augmented batches of one size."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch, at least 1."""
        ...

    @property
    def image_size(self) -> int:
        """S, in pixels."""
        ...

    @property
    def placement(self) -> str:
        """Where the images are kept."""
        ...

    def specs(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield a spec for each batch of an epoch: tensors that say what the batch is made of.

        They are on the device, have the same shapes in all steps, and depend only on the seed and the epoch.

        Args:
            seed: Seed of the training.
            epoch: 1-based.
            first_step: Number of batches to leave out at the beginning.
        """
        ...

    def make(self, spec: Any, /) -> ImageBatch:
        """The batch that a spec describes. Making it does not synchronise, so that a CUDA graph can contain it."""
        ...


class EvalSource(Protocol):
    """Every image once, in batches of one size but for the last; at least one image."""

    def __iter__(self) -> Iterator[ImageBatch]: ...
