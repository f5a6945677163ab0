"""Which changes training images get beside crop and flip: drawn here on the CPU, made where the images are.

What is drawn for an image are some numbers, and each augmentation has columns of its own. They come from a
``torch.Generator`` of their own: crops, flips and the order of images are the same with them and without.

Dimensions: N images, P numbers an image, S side of the images, in pixels.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.crops import TRIES
from kdhpc.data.operations import Operation, operate

_NUM_STRENGTHS = 31
"""Of an operation: magnitudes 0 to 30."""
_BOX = 4
"""Numbers of a rectangle: top, left, height, width."""

Strengths = Mapping[Operation, tuple[Callable[[int], Tensor] | None, bool]]
"""Of each operation: from the side S in pixels, its strengths by magnitude, float32 (31,), or None, if it has none; and
whether half of the images get it with a minus."""


def _line(start: float, end: float) -> Callable[[int], Tensor]:
    return lambda side: torch.linspace(start, end, _NUM_STRENGTHS)


def _bits(fewer: int) -> Callable[[int], Tensor]:
    return lambda side: (8 - torch.arange(_NUM_STRENGTHS) / ((_NUM_STRENGTHS - 1) / fewer)).round()


def _strengths(
    *, shear: float, translate: Callable[[int], Tensor], degrees: float, colour: float, fewer_bits: int
) -> Strengths:
    return {
        Operation.IDENTITY: (None, False),
        **{operation: (_line(0, shear), True) for operation in (Operation.SHEAR_X, Operation.SHEAR_Y)},
        **dict.fromkeys((Operation.TRANSLATE_X, Operation.TRANSLATE_Y), (translate, True)),
        Operation.ROTATE: (_line(0, degrees), True),
        **{
            operation: (_line(0, colour), True)
            for operation in (Operation.BRIGHTNESS, Operation.COLOR, Operation.CONTRAST, Operation.SHARPNESS)
        },
        Operation.POSTERIZE: (_bits(fewer_bits), False),
        Operation.SOLARIZE: (_line(1, 0), False),
        Operation.AUTO_CONTRAST: (None, False),
        Operation.EQUALIZE: (None, False),
    }


RAND_AUGMENT = _strengths(
    shear=0.3,
    translate=lambda side: torch.linspace(0, 150 / 331 * side, _NUM_STRENGTHS),
    degrees=30,
    colour=0.9,
    fewer_bits=4,
)
"""Source: Cubuk et al., "RandAugment" (https://arxiv.org/abs/1909.13719), with torchvision's strengths."""
TRIVIAL_AUGMENT_WIDE = _strengths(shear=0.99, translate=_line(0, 32), degrees=135, colour=0.99, fewer_bits=6)
"""Source: Müller and Hutter, "TrivialAugment" (https://arxiv.org/abs/2103.10158), with torchvision's strengths."""


def draw_operations(
    num: int, num_ops: int, strengths: Strengths, magnitude: int | None, side: int, generator: torch.Generator
) -> Tensor:
    """Draws operations, each as likely as any other.

    Args:
        num: N.
        num_ops: how many an image gets.
        strengths: what there is to draw.
        magnitude: of all of them, 0 to 30; None: each draws one.
        side: S.
        generator: on the CPU.

    Returns:
        float32 (N, num_ops, 2): the operation, and its strength with a sign.
    """
    table = torch.zeros(len(Operation), _NUM_STRENGTHS)
    signed = torch.zeros(len(Operation), dtype=torch.bool)
    for operation, (of_side, is_signed) in strengths.items():
        signed[operation] = is_signed
        if of_side is not None:
            table[operation] = of_side(side)
    operations = torch.randint(len(Operation), (num, num_ops), generator=generator)
    magnitudes = torch.randint(_NUM_STRENGTHS, (num, num_ops), generator=generator)
    minus = torch.rand(num, num_ops, generator=generator) < 0.5
    strength = table[operations, magnitudes if magnitude is None else magnitude]
    strength = torch.where(minus & signed[operations], -strength, strength)
    return torch.stack([operations.float(), strength], dim=2)


def draw_rectangles(
    num: int, side: int, share: float, scale: tuple[float, float], ratio: tuple[float, float], gen: torch.Generator
) -> Tensor:
    """Draws rectangles to erase, as torchvision's ``RandomErasing`` does.

    Area is uniform, ratio log-uniform. One that does not fit the image is drawn again, ten times in all; then nothing
    is erased.

    Args:
        num: N.
        side: S.
        share: of the images that get one.
        scale: range of the rectangle's share of the image's area, in (0, 1].
        ratio: range of the rectangle's height / width.
        gen: on the CPU.

    Returns:
        float32 (N, 4), whole numbers: top, left, height, width; zeros where nothing is erased.

    Source: Zhong et al., "Random erasing" (https://arxiv.org/abs/1708.04896).
    """
    area, aspect = torch.rand(2, num, TRIES, dtype=torch.float64, generator=gen)
    corner = torch.rand(num, 2, dtype=torch.float64, generator=gen)
    erases = torch.rand(num, dtype=torch.float64, generator=gen) < share
    low, high = (math.log(bound) for bound in ratio)
    area = side * side * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = torch.exp(low + (high - low) * aspect)
    tried = torch.stack([torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()], dim=2)
    fits = (tried < side).all(dim=2)
    first = fits.int().argmax(dim=1)  # The first of the highest.
    extent = tried[torch.arange(num), first]
    place = torch.floor(corner * (side - extent + 1))
    return torch.where((erases & fits.any(dim=1))[:, None], torch.cat([place, extent], dim=1), 0).float()


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Sets a rectangle of each image to 0.

    Args:
        images: (N, C, S, S), normalised.
        boxes: (N, 4): top, left, height, width.
    """
    top, left, height, width = boxes[:, :, None].unbind(1)
    row, column = (torch.arange(extent, device=images.device) for extent in images.shape[2:])
    rows = (row >= top) & (row < top + height)
    columns = (column >= left) & (column < left + width)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


class Policies:
    """The augmentations that a config names.

    Args:
        config: Which, and how strong.
    """

    def __init__(self, config: DatasetConfig) -> None:
        names = config.augmentations
        self._config = config
        self._num_ops, self._strengths = 0, TRIVIAL_AUGMENT_WIDE
        self._magnitude: int | None = None
        if "RandAugment" in names:
            self._num_ops, self._strengths = config.rand_augment_num_ops, RAND_AUGMENT
            self._magnitude = config.rand_augment_magnitude
        elif "TrivialAugmentWide" in names:
            self._num_ops = 1
        self._erases = "RandomErasing" in names

    @property
    def operates(self) -> bool:
        """Whether `operate` changes images, which must be of whole numbers then."""
        return self._num_ops > 0

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """What each image gets.

        Args:
            num: N.
            generator: on the CPU.

        Returns:
            float32 (N, P); P is 0 where a config names no augmentation.
        """
        config, side = self._config, self._config.image_size
        drawn = [torch.zeros(num, 0)]
        if self.operates:
            operations = draw_operations(num, self._num_ops, self._strengths, self._magnitude, side, generator)
            drawn.append(operations.flatten(1))
        if self._erases:
            ranges = (config.random_erasing_scale, config.random_erasing_ratio)
            drawn.append(draw_rectangles(num, side, config.random_erasing_p, *ranges, generator))
        return torch.cat(drawn, dim=1)

    def operate(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The operations, one after the other.

        Args:
            images: uint8 (N, C, S, S).
            drawn: (N, P), on the same device.
        """
        for step in range(self._num_ops):
            images = operate(images, drawn[:, 2 * step], drawn[:, 2 * step + 1])
        return images

    def erase(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The rectangles.

        Args:
            images: float32 (N, 3, S, S), normalised.
            drawn: (N, P), on the same device.
        """
        return erase(images, drawn[:, -_BOX:]) if self._erases else images
