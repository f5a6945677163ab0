"""Data sets for Python users: a name, or images and labels in memory."""

import logging
import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.config.own_datasets import StoredAs, dataset_group_of
from kdhpc.config.paths import packed_dir
from kdhpc.data.decode import Target, decode_image, is_image
from kdhpc.data.memory import divide, in_memory, with_test_half
from kdhpc.data.packed import PackedDataset
from kdhpc.data.pixels import Array, as_pixels
from kdhpc.data.readers.source import ArraySource, ArraySplit
from kdhpc.errors import DataError

_LOG = logging.getLogger(__name__)


@runtime_checkable
class ImageDataset(Protocol):
    """A map-style data set such as ``torch.utils.data.Dataset``: each item is a pair of an image and its label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


Data: TypeAlias = str | tuple[Array, Array | Sequence[int]] | ImageDataset
"""The name of a data set that was prepared, a pair (images, labels), or a map-style data set."""


def open_data(
    dataset: Data, test: Data | None, classes: Sequence[str] | None, *, needs_test: bool = True
) -> PackedDataset | None:
    """Make a data set in memory of what a user has given.

    Args:
        dataset: Images to train on.
        test: Images to score on; None: the test images of a named data set, or else a fifth of each class of
            ``dataset``.
        classes: Names of the classes; None: the attribute ``classes`` of a map-style data set, or ``0``, ``1``, ...
        needs_test: Log how many images are kept as test images, if none were given.

    Returns:
        None: ``dataset`` is a name and ``test`` is None, so that the data set is opened by its name later.

    Raises:
        DataError: images have a wrong type, shape or range, labels are outside the classes, or there is only one class.
        StorageError: the file system refuses.
    """
    if isinstance(dataset, str):
        if classes is not None:
            raise DataError(f"classes= has no meaning for a data set that has a name, {dataset!r}: leave it out")
        if test is None:
            return None
        packed = PackedDataset.open(packed_dir(dataset))
        return with_test_half(packed, _half(test, packed.classes))
    images, found = _split_of(dataset, "dataset")
    named = tuple(classes) if classes is not None else found
    if isinstance(test, str):
        other = PackedDataset.open(packed_dir(test))
        return with_test_half(_memory(images, None, named or other.classes, says=False), other)
    scored = None if test is None else _split_of(test, "test")[0]
    return _memory(images, scored, named, says=needs_test)


def _half(test: Data, classes: Sequence[str]) -> PackedDataset:
    if isinstance(test, str):
        return PackedDataset.open(packed_dir(test))
    split, found = _split_of(test, "test")
    return in_memory(ArraySource(classes=found or tuple(classes), train=split, test=split), origin="test")


def _memory(
    images: ArraySplit, scored: ArraySplit | None, classes: Sequence[str] | None, *, says: bool
) -> PackedDataset:
    if classes is None:
        highest = max(int(split.labels.max()) for split in (images, scored) if split is not None)
        classes = tuple(map(str, range(highest + 1)))
    if scored is None:
        train, scored = divide(images, origin="dataset")
        if says:
            _LOG.warning("no test images were given: %d of %d are kept for it", len(scored.labels), len(images.labels))
        images = train
    elif scored.images.shape[1:] != images.images.shape[1:]:
        raise DataError(
            f"test has images {_shape(scored)}, dataset has images {_shape(images)}: give images of one height, width "
            "and number of channels"
        )
    return in_memory(ArraySource(classes=tuple(classes), train=images, test=scored), origin="dataset")


def _split_of(data: Data, what: str) -> tuple[ArraySplit, tuple[str, ...] | None]:
    """Images and labels as arrays, and the names of the classes if the data set has them."""
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"{what} has {len(data)} parts: give a name, a pair (images, labels), or a Dataset")
        return _pair(as_pixels(data[0], what), _labels(data[1], what), what), None
    if isinstance(data, ImageDataset) and not isinstance(data, (list, Tensor, np.ndarray, dict)):
        return _of_dataset(data, what)
    raise DataError(
        f"{what} is a {type(data).__name__}: give a name, a pair (images, labels), or a torch.utils.data.Dataset"
    )


def _labels(labels: object, what: str) -> NDArray[np.int64]:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{what} has labels {array.dtype} {array.shape}: give whole numbers from 0, of shape (N,)")
    return array.astype(np.int64)


def _pair(images: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> ArraySplit:
    if len(images) != len(labels):
        raise DataError(f"{what} has {len(images):,} images and {len(labels):,} labels: give one label an image")
    if labels.min() < 0:
        raise DataError(f"{what} has labels from {labels.min()}: give whole numbers from 0")
    return ArraySplit(images=images, labels=labels)


def _of_dataset(data: ImageDataset, what: str) -> tuple[ArraySplit, tuple[str, ...] | None]:
    num = len(data)
    if num == 0:
        raise DataError(f"{what} has no images")
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for index in range(num):
        item = data[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{what}[{index}] is a {type(item).__name__}: give pairs (image, label)")
        pixels.append(_item(item[0], f"{what}[{index}]", pixels[0] if pixels else None))
        labels.append(_label(item[1], f"{what}[{index}]"))
    names = getattr(data, "classes", None)
    classes = tuple(map(str, names)) if isinstance(names, (list, tuple)) else None
    return _pair(np.stack(pixels), np.array(labels, dtype=np.int64), what), classes


def _item(image: object, what: str, first: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if is_image(image):
        width, height = image.size
        grey = image.mode in ("1", "L") if first is None else first.shape[2] == 1
        target = Target(height=height, width=width, channels=1 if grey else 3, resize=False)
        try:
            pixels = decode_image(image, target).pixels
        except DataError as exc:
            raise DataError(f"{what}: {exc}") from exc
    elif isinstance(image, Tensor) and image.ndim == 3:
        pixels = as_pixels(image.unsqueeze(0), what)[0]
    else:
        shown = f"of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise DataError(f"{what} has an image {shown}: give an image of Pillow's, or a tensor, uint8 (1 or 3, H, W)")
    if first is not None and pixels.shape != first.shape:
        raise DataError(
            f"{what} has an image of {pixels.shape[0]}x{pixels.shape[1]} in {pixels.shape[2]} channels, the first has "
            f"{first.shape[0]}x{first.shape[1]} in {first.shape[2]}: give images of one size, as with "
            "torchvision.transforms.Resize((H, W))"
        )
    return pixels


def _label(label: object, what: str) -> int:
    array = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
    if array.ndim != 0 or array.dtype.kind not in "iu":
        raise DataError(f"{what} has the label {label!r:.80}: give a whole number from 0")
    return int(array)


def _shape(split: ArraySplit) -> str:
    height, width, channels = split.images.shape[1:]
    return f"{height}x{width} in {channels} channel{'s' if channels > 1 else ''}"


def dataset_group(packed: PackedDataset) -> dict[str, object]:
    """Default config of a data set in memory. Small images are augmented as CIFAR's, large ones as photographs."""
    manifest = packed.manifest
    height, width, _ = manifest.image_shape
    return dataset_group_of(manifest.name, StoredAs(height=height, width=width, per_class=math.inf))
