"""From images to the networks' input, as a run's test images were made: resized, cropped, normalised."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.decode import Decoded, PillowImage, Target, decode, decode_image, fit_pixels, is_image
from kdhpc.data.pixels import Array, as_pixels, is_tensor
from kdhpc.data.transform import Transform
from kdhpc.errors import DataError
from kdhpc.final.model import ModelCard

BATCH_SIZE = 64
"""Images in a forward pass, if nobody says otherwise."""

Images: TypeAlias = Array | str | Path | PillowImage | Sequence[str | Path | PillowImage]
"""uint8 (N, 1 or 3, H, W), or files, or images of Pillow's."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Makes the networks' input from images, as when the run was scored: resize, crop, normalise."""

    card: ModelCard
    """Names of the classes, and the shape of stored images."""
    config: DatasetConfig
    """Config of the run's data set, for crop and normalisation."""
    channels_last: bool = False
    """Whether the batches have torch's memory format ``channels_last``."""

    @property
    def image_size(self) -> int:
        """S, the side of the networks' input, in pixels."""
        return self.config.image_size

    def __call__(
        self, images: Images, *, batch_size: int = BATCH_SIZE, device: torch.device | None = None
    ) -> Iterator[Tensor]:
        """Batches of the networks' input, float32 (n, 3, S, S).

        Images of another size than the run's own are resized to it, as ``kdhpc data prepare`` does.

        Raises:
            DataError: an image that cannot be read, or a tensor of a wrong type, shape or range.
            StorageError: the file system refuses.
        """
        for decoded in in_batches(self._decoded(images), batch_size):
            yield self.batch(decoded, device or torch.device("cpu"))

    def read(self, path: Path) -> Decoded:
        """An image file in the form in which the run's data set stores images.

        Raises:
            DataError: the file cannot be used; the message has the reason, and leaves the file's name to the caller.
            StorageError: the file system refuses to read it.
        """
        return decode(path, self._target)

    def batch(self, decoded: Sequence[Decoded], device: torch.device) -> Tensor:
        """The networks' input for some images, float32 (n, 3, S, S), on a device."""
        transform = Transform(self.config, self.card.image_shape[:2], device=device, channels_last=self.channels_last)
        pixels = torch.from_numpy(np.stack([one.pixels for one in decoded])).to(device)
        sizes = torch.tensor([(one.height, one.width) for one in decoded], dtype=torch.int32)
        return transform(pixels, transform.centre(sizes).to(device))

    @property
    def _target(self) -> Target:
        height, width, channels = self.card.image_shape
        return Target(height=height, width=width, channels=channels, resize=True)

    def _decoded(self, images: object) -> Iterator[Decoded]:
        """Yield each image in the form in which the run's data set stores images."""
        if is_tensor(images):
            for pixels in as_pixels(images, "the images"):
                yield fit_pixels(pixels, self._target)
            return
        single = isinstance(images, (str, Path)) or is_image(images)
        if not single and not isinstance(images, Iterable):
            raise DataError(f"images are a {type(images).__name__}: give files, images of Pillow's, or a tensor")
        each = [images] if single else list(images)  # type: ignore[call-overload]
        if not each:
            raise DataError("there are no images: give one or more")
        for index, image in enumerate(each):
            yield self._one_image(image, index)

    def _one_image(self, image: object, index: int) -> Decoded:
        name = str(image) if isinstance(image, (str, Path)) else f"image {index}"
        try:
            if isinstance(image, (str, Path)):
                return self.read(Path(image))
            if is_image(image):
                return decode_image(image, self._target)
        except DataError as exc:
            raise DataError(f"{name}: {exc}") from exc
        if is_tensor(image) and image.ndim == 3:
            pixels: NDArray[np.uint8] = as_pixels(image[None], name)[0]
            return fit_pixels(pixels, self._target)
        raise DataError(f"{name} is a {type(image).__name__}: give files, images of Pillow's, or a tensor")


def in_batches(images: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Lists of that many images; the last one may be shorter."""
    batch: list[Decoded] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
