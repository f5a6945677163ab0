import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image
from torchvision.transforms.v2 import Normalize
from torchvision.transforms.v2 import functional as reference

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.augment import cut, normalise, resample
from kdhpc.data.crops import Crops, centre_resized, draw_resized, draw_shifts, seeded
from kdhpc.data.transform import Transform
from kdhpc.errors import ConfigError
from tests.data.trees import noise, smooth


def _planes(image: torch.Tensor) -> torch.Tensor:
    return image.permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "side", "pad"), [(32, 32, 32, 4), (28, 20, 24, 6), (40, 30, 16, 0)])
def test_cut_is_pad_crop_and_flip_of_torchvision(height: int, width: int, side: int, pad: int, channels: int) -> None:
    images = torch.from_numpy(noise(0, 50, height, width, channels))
    crops = draw_shifts(50, (height, width), side, pad, True, seeded("cut"))

    result = cut(images, crops, side, pad)

    for image, box, flip, ours in zip(images, crops.boxes.int().tolist(), crops.flip, result, strict=True):
        expected = reference.crop(reference.pad(_planes(image), [pad]), box[0] + pad, box[1] + pad, side, side)
        assert torch.equal(_planes(ours), reference.horizontal_flip(expected) if flip else expected)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
@pytest.mark.parametrize(("height", "width", "side", "pad"), [(32, 32, 32, 4), (28, 20, 24, 6), (8, 9, 12, 7)])
def test_cut_with_a_padding_mode_is_that_of_torchvision(
    height: int, width: int, side: int, pad: int, mode: str
) -> None:
    images = torch.from_numpy(noise(0, 50, height, width, 3))
    crops = draw_shifts(50, (height, width), side, pad, True, seeded("cut"))

    result = cut(images, crops, side, pad, mode)

    for image, box, flip, ours in zip(images, crops.boxes.int().tolist(), crops.flip, result, strict=True):
        padded = reference.pad(_planes(image), [pad], padding_mode=mode)
        expected = reference.crop(padded, box[0] + pad, box[1] + pad, side, side)
        assert torch.equal(_planes(ours), reference.horizontal_flip(expected) if flip else expected)


@pytest.mark.parametrize("side", [8, 24, 48])
def test_resample_is_resized_crop_and_flip_of_torchvision(side: int) -> None:
    images = torch.from_numpy(noise(1, 40, 30, 44, 3))
    sizes = torch.tensor([30, 44]).expand(40, 2)
    crops = draw_resized(sizes, (30, 44), (0.01, 1.0), (0.5, 2.0), True, seeded("resample", side))

    result = resample(images, crops, side)

    for image, box, flip, ours in zip(images, crops.boxes.int().tolist(), crops.flip, result, strict=True):
        expected = reference.resized_crop(_planes(image).float(), *box, [side, side], antialias=True)
        expected = reference.horizontal_flip(expected) if flip else expected
        assert (_planes(ours) - expected).abs().max() < 0.01


@pytest.mark.parametrize(("height", "width"), [(30, 44), (61, 40), (33, 33), (20, 90)])
def test_resample_of_centres_is_resize_and_centre_crop_of_torchvision(height: int, width: int) -> None:
    image = torch.from_numpy(noise(2, 1, height, width, 3))
    crops = centre_resized(torch.tensor([[height, width]]), (height, width), 28, 24)

    ours = _planes(resample(image, crops, 24)[0])

    resized = reference.resize(_planes(image[0]).float(), [28], antialias=True)
    assert (ours - reference.center_crop(resized, [24, 24])).abs().max() < 0.01


def _decibels(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (ours - expected).square().mean()))


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (200, 640)])
def test_resample_from_the_stored_square_looks_like_a_crop_of_the_original(size: tuple[int, int]) -> None:
    original = smooth(3, *size)
    square = Image.fromarray(original).resize((64, 64), Image.Resampling.BICUBIC)
    stored = torch.from_numpy(np.array(square)).expand(20, 64, 64, 3)
    sizes = torch.tensor(size).expand(20, 2)
    boxes = draw_resized(sizes, size, (0.08, 1.0), (1.0, 1.3), False, seeded("square")).boxes.int().tolist()
    crops = draw_resized(sizes, (64, 64), (0.08, 1.0), (1.0, 1.3), False, seeded("square"))

    result = resample(stored, crops, 56)

    planes = torch.from_numpy(original.copy()).permute(2, 0, 1).float()
    for ours, box in zip(result, boxes, strict=True):
        assert _decibels(_planes(ours), reference.resized_crop(planes, *box, [56, 56], antialias=True)) > 38


def _photograph() -> np.ndarray:
    """600x512, with all the detail that a camera sees; Matplotlib brings it along."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize(
    ("side", "training", "worst", "testing"), [(192, 29.5, 24, 32), (256, 33.5, 26, 38), (384, 41, 33, 49)]
)
def test_resample_of_a_photograph_loses_what_the_stored_size_costs(
    side: int, training: float, worst: float, testing: float
) -> None:
    """Decibels against the same crops of the original, to 224: see docs/data.md."""
    original = _photograph()
    square = torch.from_numpy(np.array(Image.fromarray(original).resize((side, side), Image.Resampling.BICUBIC)))
    planes, sizes = torch.from_numpy(original.copy()).permute(2, 0, 1).float(), torch.tensor(original.shape[:2])
    options = ((0.08, 1.0), (1.0, 1.3), False)
    boxes = draw_resized(sizes.expand(20, 2), (600, 512), *options, seeded("square")).boxes.int().tolist()
    crops = draw_resized(sizes.expand(20, 2), (side, side), *options, seeded("square"))

    result = resample(square.expand(20, side, side, 3), crops, 224)
    centre = resample(square[None], centre_resized(sizes[None], (side, side), 256, 224), 224)[0]

    found = [
        _decibels(_planes(ours), reference.resized_crop(planes, *box, [224, 224], antialias=True))
        for ours, box in zip(result, boxes, strict=True)
    ]
    assert training < np.mean(found) < training + 2
    assert worst < min(found) < worst + 4
    expected = reference.center_crop(reference.resize(planes, [256], antialias=True), [224, 224])
    assert testing < _decibels(_planes(centre), expected) < testing + 2


def test_resample_does_not_alias_when_it_shrinks_much() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(1, 64, 64)[..., None]
    whole = Crops(boxes=torch.tensor([[0.0, 0.0, 64.0, 64.0]]), flip=torch.tensor([False]))

    assert (resample(stripes, whole, 8) - 127.5).abs().max() < 8


def test_resample_closed_box_sees_nothing_of_its_surroundings() -> None:
    image = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    image[:, 4:12, 4:12] = 200
    box, flip = torch.tensor([[4.0, 4.0, 8.0, 8.0]]), torch.tensor([False])

    assert (resample(image, Crops(boxes=box, flip=flip), 16) - 200).abs().max() < 1e-3
    assert resample(image, Crops(boxes=box, flip=flip, closed=False), 16)[0, 0, 0, 0] < 150


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_normalise_is_that_of_torchvision(memory_format: torch.memory_format) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    images = torch.from_numpy(noise(4, 5, 8, 8, 3))
    scale = 1 / (255 * torch.tensor(std)).reshape(3, 1, 1)
    shift = (-torch.tensor(mean) / torch.tensor(std)).reshape(3, 1, 1)

    result = normalise(images, scale, shift, memory_format)

    expected = Normalize(mean, std)(images.permute(0, 3, 1, 2) / 255)
    assert torch.allclose(result, expected, atol=1e-6)
    assert result.is_contiguous(memory_format=memory_format)


def _config(**fields: object) -> DatasetConfig:
    options = {"name": "pets", "image_size": 32, "augmentation": "pad_crop", "validation_fraction": 0.5, **fields}
    return DatasetConfig(**options)


def _transform(config: DatasetConfig, stored: tuple[int, int], channels_last: bool = False) -> Transform:
    return Transform(config, stored, device=torch.device("cpu"), channels_last=channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
def test_transform_of_grey_images_has_three_equal_channels(augmentation: str, channels_last: bool) -> None:
    transform = _transform(_config(augmentation=augmentation), (28, 28), channels_last)
    images, sizes = torch.from_numpy(noise(5, 9, 28, 28, 1)), torch.tensor([28, 28]).expand(9, 2)

    result = transform(images, transform.draw(sizes, seeded("grey")))

    assert result.shape == (9, 3, 32, 32)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(result[:, 0], result[:, 2])
    assert 0 <= result.min() < result.max() <= 1


def test_transform_result_does_not_depend_on_the_batch() -> None:
    transform = _transform(_config(augmentation="resized_crop"), (40, 30))
    images, sizes = torch.from_numpy(noise(6, 11, 40, 30, 3)), torch.tensor([400, 300]).expand(11, 2)
    crops = transform.draw(sizes, seeded("batch"))

    whole = transform(images, crops)

    for index in range(11):
        assert torch.equal(whole[index : index + 1], transform(images[index : index + 1], crops.part(index, index + 1)))


def test_transform_black_border_is_black_before_normalisation() -> None:
    transform = _transform(_config(mean=(0.5,), std=(0.25,)), (28, 28))
    images = torch.full((1, 28, 28, 1), 255, dtype=torch.uint8)

    result = transform(images, transform.centre(torch.tensor([[28, 28]])))

    assert result[0, 0, 0, 0] == pytest.approx(-2)
    assert result[0, 0, 16, 16] == pytest.approx(2)


@pytest.mark.parametrize(
    ("fields", "stored", "message"),
    [
        ({"image_size": 40}, (28, 28), r"dataset\.image_size=40 .* pets are 28x28, with dataset\.pad=4 .* at most 36"),
        ({"image_size": 37, "pad": 4}, (64, 28), r"dataset\.image_size=37 .* at most 36"),
        ({"pad": 28, "padding_mode": "reflect"}, (64, 28), r"dataset\.pad=28 .* mirrors an image once.* at most 27"),
    ],
)
def test_transform_that_does_not_fit_the_images_is_refused(
    fields: dict[str, object], stored: tuple[int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _transform(_config(**fields), stored)


def test_transform_centre_of_stored_size_is_the_image_itself() -> None:
    images = torch.from_numpy(noise(7, 3, 32, 32, 3))
    transform = _transform(_config(), (32, 32))

    result = transform(images, transform.centre(torch.tensor([[32, 32]]).expand(3, 2)))

    assert torch.allclose(result, images.permute(0, 3, 1, 2) / 255)
