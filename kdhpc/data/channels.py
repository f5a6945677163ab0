"""Mean and standard deviation of the channels of images, with which a config normalises them."""

from pathlib import Path

import numpy as np

from kdhpc.data.packed import Half
from kdhpc.data.stored import StoredImages

_MOST = 2_000
"""Images that are looked at, evenly spaced; more of them do not change the third decimal."""
_AT_ONCE = 64
_LEAST_STD = 0.01
"""Images of one brightness have no spread to divide by."""


def channel_statistics(folder: Path, half: Half = "train") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of images with values from 0 to 1, to four decimals.

    Integers are summed, so that the numbers are the same on every machine.

    Args:
        folder: Folder of a packed data set.
        half: The half that is looked at.

    Raises:
        StorageError: the file system refuses to read it.
    """
    images = StoredImages(folder / half / "images.npy")
    num = len(images)
    chosen = np.unique(np.linspace(0, num - 1, min(num, _MOST)).astype(np.int64))
    num_pixels, sums, squares = 0, np.zeros(images.shape[3], np.uint64), np.zeros(images.shape[3], np.uint64)
    for start in range(0, len(chosen), _AT_ONCE):
        pixels = images[chosen[start : start + _AT_ONCE]].reshape(-1, images.shape[3]).astype(np.uint32)
        num_pixels += len(pixels)
        sums += pixels.sum(axis=0, dtype=np.uint64)
        squares += np.square(pixels).sum(axis=0, dtype=np.uint64)
    means = [int(total) / num_pixels / 255 for total in sums]
    variances = [int(total) / num_pixels / 255**2 - mean**2 for total, mean in zip(squares, means, strict=True)]
    stds = [max(_LEAST_STD, max(0.0, variance) ** 0.5) for variance in variances]
    return tuple(round(mean, 4) for mean in means), tuple(round(std, 4) for std in stds)
