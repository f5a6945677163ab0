"""Where the images of a half are kept during a training: on the disk, in the device's memory, or moved in batches.

A batch is made in two steps. `stream` brings to the device what it needs of the host: the images, or only their
positions. `gather` makes the images of that, on the device alone, so that it can be part of a CUDA graph.

Dimensions: N images of a batch, H x W pixels, C channels.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.data.stored import Images, StoredImages

_SHARE_OF_FREE_MEMORY = 0.5
_COPIED_AT_ONCE = 1 << 28

Placement = Literal["disk", "resident", "streamed"]
"""``disk``: on disk, read by the CPU. ``resident``: all on the device. ``streamed``: moved there batch by batch."""


class ImageStore(Protocol):
    """Gives batches of images on the training device."""

    placement: Placement
    """Where the images are kept."""

    def stream(self, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        """The input of `gather` for each batch.

        Args:
            positions: int64 (P,) on the CPU: which images, in this order, from 0 among those that the store holds.
            batch_size: N. The last batch may be smaller.

        Yields:
            For each batch, on the device: either its images, uint8 (N, H, W, C), or their positions, int64 (N,).
        """
        ...

    def gather(self, streamed: Tensor) -> Tensor:
        """The images of a batch, uint8 (N, H, W, C), on the device. It does not synchronise with the host.

        Args:
            streamed: What `stream` has given for the batch.
        """
        ...


class DiskImages:
    """Images that are read from the disk, or from the system's page cache, for each batch. For training on the CPU.

    Args:
        images: All images of the half.
        indices: int64 (P,), the images that are used.
    """

    placement: Placement = "disk"

    def __init__(self, images: Images, indices: NDArray[np.int64]) -> None:
        self._images = images
        self._indices = indices

    def stream(self, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        """See ``ImageStore``."""
        for chosen in torch.split(positions, batch_size):
            yield torch.from_numpy(self._images[self._indices[chosen.numpy()]])

    def gather(self, streamed: Tensor) -> Tensor:
        """See ``ImageStore``: what was streamed are the images."""
        return streamed


class ResidentImages:
    """Images that are copied to the device once and stay there.

    Args:
        images: All images of the half.
        indices: int64 (P,), the images that are used.
        device: The training device.
    """

    placement: Placement = "resident"

    def __init__(self, images: Images, indices: NDArray[np.int64], device: torch.device) -> None:
        self._device = device
        self._images = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8, device=device)
        step = max(1, _COPIED_AT_ONCE // _bytes_per_image(images))
        for start in range(0, len(indices), step):
            piece = torch.from_numpy(images[indices[start : start + step]])
            self._images[start : start + step].copy_(piece)

    def stream(self, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        """See ``ImageStore``: positions."""
        yield from torch.split(positions.to(self._device), batch_size)

    def gather(self, streamed: Tensor) -> Tensor:
        """See ``ImageStore``."""
        return self._images.index_select(0, streamed)


class StreamedImages:
    """Images that do not fit on the device. A thread reads the next batch while the present one is used.

    Args:
        images: All images of the half.
        indices: int64 (P,), the images that are used.
        device: The training device.
    """

    placement: Placement = "streamed"

    def __init__(self, images: Images, indices: NDArray[np.int64], device: torch.device) -> None:
        self._images = images
        self._indices = indices
        self._device = device

    def stream(self, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        """See ``ImageStore``."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            pending: Future[Tensor] | None = None
            for chosen in torch.split(positions, batch_size):
                following = thread.submit(self._pinned, chosen)
                if pending is not None:
                    yield self._moved(pending)
                pending = following
            if pending is not None:
                yield self._moved(pending)

    def gather(self, streamed: Tensor) -> Tensor:
        """See ``ImageStore``: what was streamed are the images."""
        return streamed

    def _pinned(self, chosen: Tensor) -> Tensor:
        """A batch in pinned memory, from which CUDA copies asynchronously. Torch reuses it only after the copy."""
        shape = (len(chosen), *self._images.shape[1:])
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        rows, out = self._indices[chosen.numpy()], batch.numpy()
        if isinstance(self._images, StoredImages):
            self._images.read(rows, out)
        else:
            np.take(self._images, rows, axis=0, out=out, mode="clip")
        return batch

    def _moved(self, pending: "Future[Tensor]") -> Tensor:
        return pending.result().to(self._device, non_blocking=True)


def store_images(images: Images, indices: NDArray[np.int64], device: torch.device) -> ImageStore:
    """Choose a store: the disk for the CPU; on a GPU, its memory if half of what is free is enough, else streaming.

    Args:
        images: All images of the half.
        indices: int64 (P,), the images that are used.
        device: The training device.
    """
    if device.type == "cpu":
        return DiskImages(images, indices)
    needed = len(indices) * _bytes_per_image(images)
    if device.type != "cuda" or needed <= _SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return ResidentImages(images, indices, device)
    return StreamedImages(images, indices, device)


def _bytes_per_image(images: Images) -> int:
    return int(np.prod(images.shape[1:], dtype=np.int64))
