"""Images in memory: tensors of torch's and arrays of NumPy's, as packed data sets store images."""

from typing import TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.errors import DataError

_IMAGES = "uint8, 0 to 255, of shape (N, 1 or 3, H, W)"

Array: TypeAlias = Tensor | NDArray[np.generic]
"""A tensor of torch's or an array of NumPy's."""


def as_pixels(images: object, what: str) -> NDArray[np.uint8]:
    """Convert images to the form in which packed data sets store them, uint8 (N, H, W, C).

    Args:
        images: uint8 (N, 1 or 3, H, W), a tensor or an array.
        what: Name of the images in messages.

    Raises:
        DataError: they have another type or shape; the message has that, and the range of their values.
    """
    if not is_tensor(images):
        raise DataError(f"{what} has images in a {type(images).__name__}: give a tensor or an array, {_IMAGES}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise DataError(f"{what} has images of shape {tuple(images.shape)}: give {_IMAGES}")
    if len(images) == 0:
        raise DataError(f"{what} has no images: give {_IMAGES}")
    dtype = str(images.dtype).removeprefix("torch.")
    if dtype != "uint8":
        low, high = images.min().item(), images.max().item()
        raise DataError(
            f"{what} has images of type {dtype}, from {low:.4g} to {high:.4g}: give {_IMAGES}, not yet scaled or "
            "normalised"
        )
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    pixels: NDArray[np.uint8] = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return pixels


def is_tensor(value: object) -> TypeGuard[Array]:
    """Whether a value is a tensor of torch's or an array of NumPy's."""
    return isinstance(value, (Tensor, np.ndarray))
