"""Cutting, resizing and normalising a batch of images on the device that they are on.

No loop over images, no number comes back to the host: every size is known beforehand, so the same kernels run in every
step.

Dimensions: N images, H x W stored pixels, C channels (1 or 3), S side of the result, K taps of the filter.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from kdhpc.data.crops import Crops


def cut(images: Tensor, crops: Crops, side: int, pad: int, padding_mode: str = "constant") -> Tensor:
    """Cuts whole pixels out of images with a border.

    Args:
        images: uint8 (N, H, W, C).
        crops: squares of that side, at whole pixels, at most ``pad`` outside the image.
        side: S.
        pad: width of the border, in pixels.
        padding_mode: what the border shows, see ``DatasetConfig.padding_mode``.

    Returns:
        uint8 (N, S, S, C).
    """
    num, height, width, channels = images.shape
    if padding_mode != "constant":
        pad = 0  # No border is made: outside, pixels of the image are looked up.
    padded = functional.pad(images, (0, 0, pad, pad, pad, pad)) if pad else images
    height, width = height + 2 * pad, width + 2 * pad
    steps = torch.arange(side, device=padded.device)
    top, left = (crops.boxes[:, :2].long() + pad).unbind(1)
    rows = _inside(top[:, None] + steps, height, padding_mode)
    columns = left[:, None] + torch.where(crops.flip[:, None], side - 1 - steps, steps)
    columns = _inside(columns, width, padding_mode)
    first = torch.arange(num, device=padded.device)[:, None] * height
    pixels = ((first + rows) * width)[:, :, None] + columns[:, None, :]
    return padded.reshape(-1, channels).index_select(0, pixels.reshape(-1)).reshape(num, side, side, channels)


def resample(images: Tensor, crops: Crops, side: int) -> Tensor:
    """Resizes each image's box to a square, bilinear with antialiasing.

    A triangle filter over whole rows, then over whole columns: what torchvision and Pillow do, but with a box of its
    own for each image.

    Args:
        images: uint8 (N, H, W, C).
        crops: boxes inside the image.
        side: S.

    Returns:
        float32 (N, S, S, C), 0 to 255.
    """
    num, height, width, channels = images.shape
    top, left, box_height, box_width = crops.boxes.unbind(1)
    upright = torch.zeros_like(crops.flip)
    rows, row_weights = _taps(top, box_height, upright, height, side, crops.closed)
    columns, column_weights = _taps(left, box_width, crops.flip, width, side, crops.closed)
    narrow = _weighted(images.reshape(num * height, width * channels), rows, row_weights)
    # Columns become rows: gathering whole rows is what both processors do fast.
    turned = narrow.reshape(num, side, width, channels).transpose(1, 2).reshape(num * width, side * channels)
    small = _weighted(turned, columns, column_weights)
    return small.reshape(num, side, side, channels).transpose(1, 2)


def normalise(images: Tensor, scale: Tensor, shift: Tensor, memory_format: torch.memory_format) -> Tensor:
    """What networks take: three channels, each scaled and shifted.

    Args:
        images: uint8 or float32 (N, S, S, C), 0 to 255; one channel is repeated.
        scale: float32 (3, 1, 1), 1 / (255 std).
        shift: float32 (3, 1, 1), -mean / std.
        memory_format: of the result.

    Returns:
        float32 (N, 3, S, S).
    """
    planes = images.permute(0, 3, 1, 2) * scale + shift
    return planes.contiguous(memory_format=memory_format)


def _inside(places: Tensor, extent: int, padding_mode: str) -> Tensor:
    """For places along one dimension, at most as far outside as an image is long, those that are shown there."""
    if padding_mode == "edge":
        return places.clamp(0, extent - 1)
    if padding_mode == "reflect":
        last = extent - 1
        return last - (last - places.abs()).abs()
    if padding_mode == "symmetric":
        places = torch.where(places < 0, -1 - places, places)
        return torch.where(places >= extent, 2 * extent - 1 - places, places)
    return places


def _taps(start: Tensor, extent: Tensor, flip: Tensor, size: int, side: int, closed: bool) -> tuple[Tensor, Tensor]:
    """Which stored pixels make each new one along one dimension, and how much of each.

    Args:
        start: (N,), where the box begins.
        extent: (N,), its length.
        flip: (N,), whether the result runs backwards.
        size: stored pixels along the dimension.
        side: S.
        closed: leave out pixels that the box does not touch.

    Returns:
        Indices int64 and weights float32, both (N, S, K).
    """
    # The longest box there can be decides K, so that shapes never depend on what was drawn.
    num_taps = math.ceil(2 * max(1.0, size / side))
    steps = torch.arange(side, device=start.device)
    position = torch.where(flip[:, None], side - 1 - steps, steps) + 0.5
    zoom = extent[:, None] / side
    reach = zoom.clamp(min=1)
    centre = start[:, None] + position * zoom
    first = torch.floor(centre - reach + 0.5)
    pixels = first[..., None] + torch.arange(num_taps, device=start.device)
    weights = (1 - (pixels + 0.5 - centre[..., None]).abs() / reach[..., None]).clamp(min=0)
    # A thousandth of a pixel is rounding error, not a touch.
    low = torch.floor(start + 1e-3) if closed else torch.zeros_like(start)
    high = torch.ceil(start + extent - 1e-3) if closed else torch.full_like(start, size)
    weights = weights * ((pixels >= low[:, None, None]) & (pixels < high[:, None, None]))
    return pixels.clamp(0, size - 1).long(), weights / weights.sum(dim=-1, keepdim=True)


def _weighted(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of K rows of an image's own part of a table.

    Args:
        table: (N * R, L), R rows an image.
        rows: (N, S, K), row numbers within the image.
        weights: (N, S, K), their weights.

    Returns:
        float32 (N * S, L).
    """
    num, _, num_taps = rows.shape
    first = torch.arange(num, device=table.device)[:, None] * (len(table) // num)
    total: Tensor | None = None
    for tap in range(num_taps):
        chosen = table.index_select(0, (rows[..., tap] + first).reshape(-1))
        weight = weights[..., tap].reshape(-1, 1)
        total = chosen * weight if total is None else total.addcmul_(chosen.float(), weight)
    assert total is not None, "there are always two taps at least"
    return total
