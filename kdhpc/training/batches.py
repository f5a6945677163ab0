"""What training asks of its data: batches that already lie where the networks run."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class ImageBatch(Protocol):
    """Images and their labels."""

    @property
    def images(self) -> Tensor:
        """(N, 3, S, S), float32, augmented and normalised."""
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
        """What each batch is made of, from that step (0-based) on: a pure function of seed and epoch.

        Tensors on the device, of the same shapes in all steps.
        """
        ...

    def make(self, spec: Any, /) -> ImageBatch:
        """The batch of a spec. Nothing waits for the host, so that it can be part of a CUDA graph."""
        ...


class EvalSource(Protocol):
    """Every image once, in batches of one size but for the last; at least one image."""

    def __iter__(self) -> Iterator[ImageBatch]: ...
