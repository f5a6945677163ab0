"""The operations of RandAugment and TrivialAugmentWide, for a batch in which each image has one of its own.

torchvision's functions take one strength for a whole call, as a number. Here it is a tensor: so nothing is asked of the
host, the same kernels run in every step, and a recorded step may hold them. What an image becomes depends on nothing
but that image, its operation and its strength; sums over an image are of whole numbers. The two that have no strength
are torchvision's own.

Source: ``torchvision.transforms.v2``, whose values these are for images of uint8 and its defaults: the nearest pixel,
and black outside.

Dimensions: N images, C channels (1 or 3), H x W pixels.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import autocontrast_image, equalize_image, rgb_to_grayscale_image


class Operation(IntEnum):
    """What is done to an image, with torchvision's name as the title and its strength in the unit of each."""

    IDENTITY = 0
    """No strength."""
    SHEAR_X = 1
    """Pixels to the side for each row."""
    SHEAR_Y = 2
    """Pixels downwards for each column."""
    TRANSLATE_X = 3
    """Pixels to the right, cut off to a whole number."""
    TRANSLATE_Y = 4
    """Pixels downwards, cut off to a whole number."""
    ROTATE = 5
    """Degrees, counter-clockwise."""
    BRIGHTNESS = 6
    """Above -1, as the next three: times 1 + strength."""
    COLOR = 7
    """How far from grey."""
    CONTRAST = 8
    """How far from the mean grey."""
    SHARPNESS = 9
    """How far from a blurred image."""
    POSTERIZE = 10
    """Bits that are kept, 0 to 8."""
    SOLARIZE = 11
    """From which brightness on pixels are inverted, 0 to 1."""
    AUTO_CONTRAST = 12
    """No strength."""
    EQUALIZE = 13
    """No strength."""


def operate(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Do one operation to each image.

    Args:
        images: uint8 (N, C, H, W).
        operations: (N,), values of `Operation`.
        strengths: float32 (N,), signed.

    Returns:
        uint8 (N, C, H, W).
    """
    change_some = _look_up if images.device.type == "cpu" else _change_all
    # Plain numbers: torch.compile compares no tensor with an enum.
    is_moved = (operations >= Operation.SHEAR_X.value) & (operations <= Operation.ROTATE.value)
    images = change_some(is_moved, _moved, images, operations, strengths)
    for operation, function in _COLOURS.items():
        images = change_some(operations == operation.value, function, images, strengths)
    return images


def _look_up(chosen: Tensor, function: Callable[..., Tensor], images: Tensor, *values: Tensor) -> Tensor:
    """The images, those that are chosen changed by a function of them and of their values, (N,) each."""
    places = chosen.nonzero().squeeze(1)
    if len(places) == 0:
        return images
    return images.index_copy(0, places, function(images[places], *(value[places] for value in values)))


def _change_all(chosen: Tensor, function: Callable[..., Tensor], images: Tensor, *values: Tensor) -> Tensor:
    """The same, for images of a device: which are chosen, the host does not know."""
    return torch.where(chosen[:, None, None, None], function(images, *values), images)


def _moved(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Shears, translations and rotations: each pixel is the one that it comes from, or black."""
    num, channels, height, width = images.shape
    row, column = (torch.arange(extent, device=images.device, dtype=torch.float32) for extent in (height, width))
    row, column = row[None, :, None], column[None, None, :]

    def of(operation: Operation) -> Tensor:
        return torch.where(operations == operation.value, strengths, 0)[:, None, None]

    turn = torch.deg2rad(of(Operation.ROTATE).double())  # Its last digits depend on the batch, those of float32 do not.
    sine, cosine = turn.sin().float(), turn.cos().float()
    right, down = column - (width - 1) / 2, row - (height - 1) / 2  # From the middle.
    source_column = (
        (right * cosine - down * sine + (width - 1) / 2)
        + of(Operation.SHEAR_X) * (row + 0.5)
        - of(Operation.TRANSLATE_X).trunc()
    ).round()
    source_row = (
        (right * sine + down * cosine + (height - 1) / 2)
        + of(Operation.SHEAR_Y) * (column + 0.5)
        - of(Operation.TRANSLATE_Y).trunc()
    ).round()
    inside = (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
    place = source_row.clamp(0, height - 1).long() * width + source_column.clamp(0, width - 1).long()
    place = place.reshape(num, 1, -1).expand(-1, channels, -1)
    moved = images.reshape(num, channels, -1).gather(2, place).reshape(images.shape)
    return moved * inside[:, None]


def _brightness(images: Tensor, strengths: Tensor) -> Tensor:
    return (images * (1 + strengths[:, None, None, None])).clamp(0, 255).to(torch.uint8)


def _color(images: Tensor, strengths: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blended(images, _grey(images), strengths)


def _contrast(images: Tensor, strengths: Tensor) -> Tensor:
    grey = _grey(images)
    mean = grey.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64) / grey[0].numel()
    return _blended(images, mean, strengths)


def _sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    """The outermost pixels stay as they are."""
    height, width = images.shape[2:]
    if min(height, width) <= 2:
        return images
    whole = images.int()
    rows = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = whole[..., 1:-1, 1:-1]
    blurred = ((around + 4 * inner) / 13).round()
    result = images.clone()
    result[..., 1:-1, 1:-1] = _blended(images[..., 1:-1, 1:-1], blurred, strengths)
    return result


def _posterize(images: Tensor, strengths: Tensor) -> Tensor:
    lost = (8 - strengths).int().clamp(0, 8)[:, None, None, None]
    return (images.int() >> lost << lost).to(torch.uint8)


def _solarize(images: Tensor, strengths: Tensor) -> Tensor:
    return torch.where(images >= 255 * strengths[:, None, None, None], 255 - images, images)


def _auto_contrast(images: Tensor, strengths: Tensor) -> Tensor:
    contrasted: Tensor = autocontrast_image(images)
    return contrasted


def _equalize(images: Tensor, strengths: Tensor) -> Tensor:
    equalized: Tensor = equalize_image(images)
    return equalized


_COLOURS: Mapping[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    Operation.BRIGHTNESS: _brightness,
    Operation.COLOR: _color,
    Operation.CONTRAST: _contrast,
    Operation.SHARPNESS: _sharpness,
    Operation.POSTERIZE: _posterize,
    Operation.SOLARIZE: _solarize,
    Operation.AUTO_CONTRAST: _auto_contrast,
    Operation.EQUALIZE: _equalize,
}


def _grey(images: Tensor) -> Tensor:
    """uint8 (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    grey: Tensor = rgb_to_grayscale_image(images, num_output_channels=1)
    return grey


def _blended(images: Tensor, others: Tensor, strengths: Tensor) -> Tensor:
    """``1 + strength`` of the images, the rest of the others; cut off to whole numbers, as torchvision does."""
    exact = images.float()
    return (exact + strengths[:, None, None, None] * (exact - others)).clamp(0, 255).to(torch.uint8)
