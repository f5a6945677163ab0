import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from kdhpc.data.crops import (
    centre_resized,
    centre_squares,
    draw_resized,
    draw_shifts,
    place_boxes,
    seeded,
    to_stored,
)

_SCALE, _RATIO = (0.08, 1.0), (1.0, 1.3)


def _torchvision_box(
    height: int,
    width: int,
    draws: list[list[float]],
    corner: list[float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> list[int]:
    """RandomResizedCrop.get_params, one image at a time, with its random numbers given."""
    for for_area, for_ratio in draws:
        target_area = height * width * (scale[0] + (scale[1] - scale[0]) * for_area)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect_ratio = math.exp(low + (high - low) * for_ratio)
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1)), h, w]
    in_ratio = width / height
    if in_ratio < min(ratio):
        w, h = width, round(width / min(ratio))
    elif in_ratio > max(ratio):
        h, w = height, round(height * max(ratio))
    else:
        w, h = width, height
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(("scale", "ratio"), [(_SCALE, _RATIO), ((0.9, 1.0), (0.75, 4 / 3)), ((1.0, 1.0), (1.0, 1.0))])
def test_place_boxes_are_those_of_torchvision_for_the_same_numbers(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    generator = seeded("boxes")
    sizes = torch.randint(1, 600, (2000, 2), generator=generator)
    draws = torch.rand(2000, 10, 2, dtype=torch.float64, generator=generator)
    corners = torch.rand(2000, 2, dtype=torch.float64, generator=generator)

    boxes = place_boxes(sizes, draws, corners, scale, ratio)

    expected = [
        _torchvision_box(*size, draw, corner, scale, ratio)
        for size, draw, corner in zip(sizes.tolist(), draws.tolist(), corners.tolist(), strict=True)
    ]
    assert boxes.tolist() == expected
    fallbacks = [box for box, size in zip(expected, sizes.tolist(), strict=True) if box[2:] == size]
    assert fallbacks or scale == _SCALE


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (100, 900)])
def test_draw_resized_has_the_distribution_of_torchvision(size: tuple[int, int]) -> None:
    sizes = torch.tensor(size).expand(3000, 2)
    ours = draw_resized(sizes, size, _SCALE, _RATIO, True, seeded("distribution"))
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, list(_SCALE), list(_RATIO)) for _ in range(3000)])

    for column in range(4):
        assert ks_2samp(ours.boxes[:, column].numpy(), theirs[:, column]).pvalue > 1e-3
    assert 0.45 < ours.flip.float().mean() < 0.55


def test_draw_resized_maps_boxes_into_the_stored_square() -> None:
    sizes = torch.tensor([[375, 500]]).expand(500, 2)
    original = draw_resized(sizes, (375, 500), _SCALE, _RATIO, False, seeded("map")).boxes
    stored = draw_resized(sizes, (256, 256), _SCALE, _RATIO, False, seeded("map")).boxes

    assert torch.allclose(stored, original * torch.tensor([256 / 375, 256 / 500]).repeat(2), atol=1e-3)
    assert (stored[:, :2] >= 0).all()
    assert (stored[:, :2] + stored[:, 2:] <= 256 + 1e-3).all()


def test_draw_shifts_reach_every_corner_of_the_border_equally() -> None:
    crops = draw_shifts(9000, (32, 32), 32, 1, True, seeded("shifts"))

    places, counts = torch.unique(crops.boxes[:, :2], dim=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in (-1, 0, 1) for left in (-1, 0, 1)]
    assert counts.min() > 850
    assert (crops.boxes[:, 2:] == 32).all()
    assert 0.45 < crops.flip.float().mean() < 0.55


def test_draw_shifts_without_flip_has_the_same_shifts() -> None:
    drawn = [draw_shifts(50, (32, 28), 28, 4, flip, seeded("flip")) for flip in (True, False)]

    assert torch.equal(drawn[0].boxes, drawn[1].boxes)
    assert not drawn[1].flip.any()


@pytest.mark.parametrize(("stored", "corner"), [((32, 32), [0, 0]), ((28, 28), [-2, -2]), ((40, 48), [4, 8])])
def test_centre_squares_are_in_the_middle(stored: tuple[int, int], corner: list[int]) -> None:
    assert centre_squares(2, stored, 32).boxes.tolist() == [[*corner, 32, 32]] * 2


def test_centre_resized_is_the_centre_of_the_original_geometry() -> None:
    # 512x640 resized to 256x320 by 1/2: the middle 224 there are 448 in the original, from 32 and 96.
    crops = centre_resized(torch.tensor([[512, 640], [640, 512]]), (256, 256), 256, 224)

    expected = to_stored(
        torch.tensor([[32.0, 96, 448, 448], [96, 32, 448, 448]]), torch.tensor([[512, 640], [640, 512]]), (256, 256)
    )
    assert torch.allclose(crops.boxes, expected)
    assert crops.boxes[0].tolist() == pytest.approx([16, 96 * 0.4, 224, 448 * 0.4])


def test_seeded_depends_on_every_part_of_its_key() -> None:
    firsts = [torch.rand(1, generator=seeded(*key)).item() for key in (("epoch", 1, 2), ("epoch", 2, 1), ("epoch", 12))]

    assert len(set(firsts)) == 3
    assert torch.rand(1, generator=seeded("epoch", 1, 2)).item() == firsts[0]
