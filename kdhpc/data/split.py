"""The search split: which of the training images train networks, and which score graphs. It follows from a seed.

No random generator is used. Within a class, images are ordered by the SHA-256 of ``kdhpc/<seed>/<index>``. So the split
is the same on every platform and with every version of every library.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdhpc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchSplit:
    """Indices into the official training half."""

    train: NDArray[np.int64]
    """Images that networks are trained on, in rising order."""
    validation: NDArray[np.int64]
    """Images that graphs are scored on, in rising order. None of them is in ``train``."""


def search_split(
    labels: NDArray[np.int64], *, validation_fraction: float, subset: int | None, seed: int
) -> SearchSplit:
    """Divide the training half, class by class.

    First a subset is taken, then it is divided. Both are in proportion to the sizes of the classes, rounded by the
    method of largest remainders. Of two or more images of a class, at least one trains and at least one scores. The
    only image of a class trains.

    Args:
        labels: int64 (N,), labels of the training half.
        validation_fraction: Share of the images that score graphs, between 0 and 1.
        subset: Number of images to use in all; None: every image.
        seed: Decides the order of the images within each class.

    Raises:
        ConfigError: there are too few images.
    """
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    sizes = counts.tolist()
    used = sizes if subset is None else _subset(sizes, subset)
    held_out = _held_out(used, validation_fraction)
    order = _order(len(labels), seed)
    members = [order[np.asarray(labels)[order] == label] for label in classes]
    return SearchSplit(
        train=_joined([own[out:end] for own, out, end in zip(members, held_out, used, strict=True)]),
        validation=_joined([own[:out] for own, out in zip(members, held_out, strict=True)]),
    )


def training_subset(labels: NDArray[np.int64], *, subset: int | None, seed: int) -> NDArray[np.int64]:
    """The images that ``search_split`` would divide: all, or a subset in proportion to the sizes of the classes.

    Args:
        labels: int64 (N,), labels of the training half.
        subset: Number of images; None: every image.
        seed: Decides the order of the images within each class.

    Returns:
        Indices into the training half, in rising order.

    Raises:
        ConfigError: there are too few images.
    """
    if subset is None:
        return np.arange(len(labels), dtype=np.int64)
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    order = _order(len(labels), seed)
    members = [order[np.asarray(labels)[order] == label] for label in classes]
    return _joined([own[:end] for own, end in zip(members, _subset(counts.tolist(), subset), strict=True)])


def apportion(total: int, weights: Sequence[int], low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Divide a total into whole shares, in proportion to weights and within bounds, by largest remainders.

    Args:
        total: Sum of the shares. It lies between the sums of ``low`` and ``high``.
        weights: Weight of each share, 1 or more.
        low: Smallest value that each share may have.
        high: Largest value that each share may have.
    """
    assert sum(low) <= total <= sum(high), f"{total} is not between {sum(low)} and {sum(high)}"
    whole = sum(weights)
    shares = [
        min(max(total * weight // whole, least), most) for weight, least, most in zip(weights, low, high, strict=True)
    ]
    # Only integers are used, so that ties are broken in the same way everywhere: for the first class.
    while (rest := total - sum(shares)) != 0:
        step = 1 if rest > 0 else -1
        owed = [step * (total * weight - share * whole) for weight, share in zip(weights, shares, strict=True)]
        bounds = high if step > 0 else low
        movable = [index for index in range(len(shares)) if shares[index] != bounds[index]]
        for index in sorted(movable, key=lambda index: -owed[index])[: abs(rest)]:
            shares[index] += step
    return shares


def _subset(sizes: list[int], subset: int) -> list[int]:
    low = [min(size, 2) for size in sizes]
    if not sum(low) <= subset <= sum(sizes):
        raise ConfigError(
            f"dataset.subset={subset} is not possible: {len(sizes)} classes with two images each and "
            f"{sum(sizes):,} images allow {sum(low):,} to {sum(sizes):,}"
        )
    return apportion(subset, sizes, low, sizes)


def _held_out(used: list[int], fraction: float) -> list[int]:
    low = [min(size - 1, 1) for size in used]
    high = [size - 1 for size in used]
    total = round(fraction * sum(used))
    if not sum(high) > 0 or not sum(low) <= total <= sum(high):
        raise ConfigError(
            f"dataset.validation_fraction={fraction} of {sum(used):,} images is {total:,}, not possible: {len(used)} "
            f"classes with at least one image on each side allow {sum(low):,} to {sum(high):,}"
        )
    return apportion(total, used, low, high)


def _order(num: int, seed: int) -> NDArray[np.int64]:
    """All indices, in the order of their checksums."""
    keys = [hashlib.sha256(f"kdhpc/{seed}/{index}".encode()).digest() for index in range(num)]
    return np.array(sorted(range(num), key=keys.__getitem__), dtype=np.int64)


def _joined(pieces: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate(pieces))
