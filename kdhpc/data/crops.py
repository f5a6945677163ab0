"""Which part of each image a network sees, as tensors: drawn here on the CPU, cut and resized where the images are.

Boxes are drawn from a ``torch.Generator`` on the CPU, so that every device sees the same crops. Resized crops are drawn
in the geometry of the original image and mapped into the stored one, which may have been resized to a square.

Dimensions: N images.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TRIES = 10
"""How often a box is drawn again that does not fit the image, as torchvision does."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """One box an image, in pixels of the stored image."""

    boxes: Tensor
    """float32 (N, 4): top, left, height, width; outside the image only where it is to be padded."""
    flip: Tensor
    """bool (N,): mirror left-right."""
    closed: bool = True
    """Resizing sees nothing outside the box, as if it were cut out first; else as if it were cut out last."""

    def __len__(self) -> int:
        return len(self.flip)

    def to(self, device: torch.device) -> "Crops":
        """The same, on another device."""
        return replace(self, boxes=self.boxes.to(device), flip=self.flip.to(device))

    def part(self, start: int, end: int) -> "Crops":
        """Some of them."""
        return replace(self, boxes=self.boxes[start:end], flip=self.flip[start:end])


def seeded(*key: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on the key alone."""
    text = "/".join(map(str, ("kdhpc", *key)))
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little"))
    return generator


def draw_shifts(
    num: int, stored: tuple[int, int], side: int, pad: int, flip: bool, generator: torch.Generator
) -> Crops:
    """Draws squares from images with a border around them (CIFAR).

    Args:
        num: N.
        stored: height and width of the stored images, in pixels.
        side: of the square, at most the stored side plus twice ``pad``.
        pad: width of the border, in pixels.
        flip: mirror every second image, at random.
        generator: on the CPU.
    """
    room = torch.tensor([extent + 2 * pad - side + 1 for extent in stored], dtype=torch.float64)
    corners = torch.floor(torch.rand(num, 2, dtype=torch.float64, generator=generator) * room) - pad
    sides = torch.full((num, 2), float(side), dtype=torch.float64)
    return Crops(boxes=torch.cat([corners, sides], dim=1).float(), flip=_flips(num, flip, generator))


def centre_squares(num: int, stored: tuple[int, int], side: int) -> Crops:
    """The middle square of each image, reaching into the border where the image is smaller."""
    corner = [float((extent - side) // 2) for extent in stored]
    return Crops(
        boxes=torch.tensor([*corner, float(side), float(side)]).expand(num, 4).contiguous(),
        flip=torch.zeros(num, dtype=torch.bool),
    )


def draw_resized(
    sizes: Tensor,
    stored: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
    generator: torch.Generator,
) -> Crops:
    """Draws boxes of random area and shape, as torchvision's ``RandomResizedCrop`` does.

    Area is uniform, ratio log-uniform, both in the original geometry. A box that does not fit is drawn again, ten times
    in all; then the largest centred box whose ratio is in range is taken.

    Args:
        sizes: (N, 2), original heights and widths, in pixels.
        stored: height and width of the stored images, in pixels.
        scale: range of the box's share of the image's area, in (0, 1].
        ratio: range of the box's width / height.
        flip: mirror every second image, at random.
        generator: on the CPU.
    """
    draws = torch.rand(len(sizes), TRIES, 2, dtype=torch.float64, generator=generator)
    corners = torch.rand(len(sizes), 2, dtype=torch.float64, generator=generator)
    boxes = place_boxes(sizes, draws, corners, scale, ratio)
    return Crops(boxes=to_stored(boxes, sizes, stored), flip=_flips(len(sizes), flip, generator))


def place_boxes(
    sizes: Tensor, draws: Tensor, corners: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes in the original geometry from numbers in [0, 1).

    Args:
        sizes: (N, 2), heights and widths.
        draws: float64 (N, tries, 2), for area and ratio.
        corners: float64 (N, 2), for top and left.
        scale: range of the area's share.
        ratio: range of width / height.

    Returns:
        float64 (N, 4), whole numbers: top, left, height, width.
    """
    height, width = sizes.double().unbind(1)
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    log_ratio = [math.log(bound) for bound in ratio]
    aspect = torch.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * draws[..., 1])
    tried = torch.stack([torch.sqrt(area / aspect).round(), torch.sqrt(area * aspect).round()], dim=-1)
    limits = torch.stack([height, width], dim=1)[:, None]
    fits = ((tried > 0) & (tried <= limits)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    chosen = tried[torch.arange(len(sizes)), first]
    any_fits = fits.any(dim=1, keepdim=True)
    extents = torch.where(any_fits, chosen, _largest(height, width, ratio))
    room = limits[:, 0] - extents
    drawn, centred = torch.floor(corners * (room + 1)), torch.floor(room / 2)
    return torch.cat([torch.where(any_fits, drawn, centred), extents], dim=1)


def centre_resized(sizes: Tensor, stored: tuple[int, int], short_side: int, side: int) -> Crops:
    """The middle square of each image, as it would be cut after resizing the image's short side.

    Args:
        sizes: (N, 2), original heights and widths, in pixels.
        stored: height and width of the stored images, in pixels.
        short_side: of the resized image, at least ``side``.
        side: of the square in the resized image.
    """
    original = sizes.double()
    short = original.min(dim=1, keepdim=True).values
    # torchvision cuts the long side off to whole pixels and rounds the corner.
    resized = torch.floor(short_side * original / short)
    corner = torch.round((resized - side) / 2)
    boxes = torch.cat([corner, torch.full_like(corner, side)], dim=1) * (original / resized).repeat(1, 2)
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    return Crops(boxes=to_stored(boxes, sizes, stored), flip=flip, closed=False)


def to_stored(boxes: Tensor, sizes: Tensor, stored: tuple[int, int]) -> Tensor:
    """Boxes of the original images, (N, 4), in pixels of the stored ones, float32."""
    zoom = torch.tensor(stored, dtype=torch.float64) / sizes.double()
    return (boxes * zoom.repeat(1, 2)).float()


def _largest(height: Tensor, width: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest boxes within the images whose ratio is in range, (N, 2)."""
    aspect = width / height
    return torch.stack(
        [
            torch.where(aspect < ratio[0], (width / ratio[0]).round(), height),
            torch.where(aspect > ratio[1], (height * ratio[1]).round(), width),
        ],
        dim=1,
    )


def _flips(num: int, flip: bool, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(num, generator=generator) < 0.5
    return drawn if flip else torch.zeros_like(drawn)
