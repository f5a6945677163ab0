import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.batches import TrainBatches
from kdhpc.data.crops import seeded
from kdhpc.data.packed import PackedSplit
from kdhpc.data.policies import draw_rectangles, erase
from kdhpc.data.transform import Transform
from kdhpc.errors import ConfigError
from tests.data.trees import noise

_ALL = ("RandAugment", "RandomErasing")


def _config(**fields: object) -> DatasetConfig:
    common = {"name": "pets", "image_size": 16, "augmentation": "pad_crop", "validation_fraction": 0.5, "pad": 2}
    return DatasetConfig(**common | fields)


def _batches(batch_size: int, **fields: object) -> TrainBatches:
    split = PackedSplit(
        images=noise(0, 24, 16, 16, 3), labels=np.arange(24) % 5, sizes=np.full((24, 2), 16, dtype=np.int32)
    )
    return TrainBatches(split, None, _config(**fields), batch_size=batch_size, device=torch.device("cpu"))


def _epoch(batches: TrainBatches, epoch: int = 1, first_step: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches.epoch(3, epoch, first_step)])


@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
@pytest.mark.parametrize("names", [_ALL, ("TrivialAugmentWide",)])
def test_augmented_images_depend_on_seed_and_epoch_alone(names: tuple[str, ...], augmentation: str) -> None:
    """Not on the size of batches, nor on where an epoch is entered."""
    fields = {"augmentations": names, "augmentation": augmentation, "resize": 20}
    whole = _epoch(_batches(4, **fields))

    assert torch.equal(_epoch(_batches(12, **fields)), whole)
    assert torch.equal(_epoch(_batches(4, **fields), first_step=2), whole[8:])
    assert not torch.equal(_epoch(_batches(4, **fields), epoch=2), whole)


def test_augmentations_leave_order_crops_and_flips_as_they_are() -> None:
    plain, augmented = (_batches(8, augmentations=names) for names in ((), _ALL))

    for one, other in zip(plain.specs(3, 1), augmented.specs(3, 1), strict=True):
        assert one.changes.shape == (8, 0)
        assert other.changes.shape == (8, 2 * 2 + 4)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(one[:4], other[:4], strict=True))


def test_transform_for_testing_augments_nothing() -> None:
    images, sizes = torch.from_numpy(noise(1, 5, 16, 16, 3)), torch.full((5, 2), 16)
    transforms = [
        Transform(_config(augmentations=names), (16, 16), device=torch.device("cpu"), channels_last=False)
        for names in ((), _ALL)
    ]

    plain, augmented = (transform(images, transform.centre(sizes)) for transform in transforms)

    assert torch.equal(plain, augmented)


def test_erase_is_torchvisions_on_normalised_images() -> None:
    images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    boxes = draw_rectangles(40, 16, 0.7, (0.02, 0.33), (0.3, 3.3), seeded("erase"))

    found = erase(images, boxes)

    for image, (top, left, height, width), ours in zip(images, boxes.int().tolist(), found, strict=True):
        expected = v2.functional.erase(image, top, left, height, width, torch.zeros(3, 1, 1))
        assert torch.equal(ours, expected)
    assert 20 <= (boxes[:, 2] > 0).sum() <= 36


def test_draw_rectangles_have_the_shares_and_ratios_of_torchvisions() -> None:
    """Sizes against 3,000 of theirs, and all places are inside."""
    scale, ratio = (0.02, 0.9), (0.3, 3.3)
    boxes = draw_rectangles(3000, 32, 1.0, scale, ratio, seeded("rectangles"))
    theirs = v2.RandomErasing(p=1.0, scale=scale, ratio=ratio)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [theirs.make_params([torch.zeros(3, 32, 32)]) for _ in range(3000)]

    expected = np.array([[box["h"], box["w"]] for box in drawn if box["v"] is not None])
    found = boxes[boxes[:, 2] > 0]
    assert len(found) == pytest.approx(len(expected), abs=20)
    for ours, other in zip(found[:, 2:].T.numpy(), expected.T, strict=True):
        assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(other, [0.1, 0.5, 0.9]), abs=1.1)
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= 32).all()
    assert {0, 32} <= {int(found[:, 0].min()), int((found[:, 0] + found[:, 2]).max())}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augmentations": ("RandAugmnt",)}, "'RandAugmnt' is none. did you mean 'RandAugment'? allowed: RandAugment"),
        ({"augmentations": ("CutMix",)}, "'CutMix' is none. gates and teachers need one label an image (docs"),
        ({"augmentations": ("RandomErasing",) * 2}, "each name once"),
        (
            {"augmentations": ("RandAugment", "TrivialAugmentWide")},
            "one of RandAugment and TrivialAugmentWide, not both",
        ),
        ({"rand_augment_magnitude": 31}, "dataset.rand_augment_magnitude=31 is not allowed: 0 to 30"),
        ({"rand_augment_num_ops": 0}, "dataset.rand_augment_num_ops=0 is not allowed: a number above 0"),
        ({"random_erasing_p": 1.5}, "dataset.random_erasing_p=1.5 is not allowed: in [0, 1]"),
        ({"random_erasing_scale": (0.5, 0.1)}, "dataset.random_erasing_scale=[0.5, 0.1] is not allowed"),
        ({"random_erasing_ratio": (0.0, 1.0)}, "dataset.random_erasing_ratio=[0.0, 1.0] is not allowed"),
    ],
)
def test_augmentation_that_is_none_is_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        _config(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
